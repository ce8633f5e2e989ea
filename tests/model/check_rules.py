"""Compares the rules that the coherence model names with those that the code names.

Usage: check_rules.py PROJECT_ROOT. A rule is "rule: NAME path:Function" in tests/model/*.pml, a line
"NAME path Function" in tests/model/rules.txt, and a comment "Model rule: NAME" in the code. Prints
one line per rule that is not in all of them, or not where they say; exits with 1 if there is any.
"""
import os
import re
import sys

ROOMS = ("daemon", "libapta", "scheduler")
IN_MODEL = re.compile(r"rule: ([A-Z][A-Z_0-9]+) ([\w/.]+):(\w+)")
IN_CODE = re.compile(r"//.*\bModel rule: ([A-Z][A-Z_0-9]+(?:, [A-Z][A-Z_0-9]+)*)")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def rules_of_model(folder):
    """name -> (path, function), from every .pml file."""
    rules = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".pml"):
            for rule, path, function in IN_MODEL.findall(read(os.path.join(folder, name))):
                rules[rule] = (path, function)
    return rules


def rules_of_table(path):
    rules = {}
    for line in read(path).split("\n"):
        if line and not line.startswith("#"):
            rule, file, function = line.split()
            rules[rule] = (file, function)
    return rules


def rules_of_code(root):
    """name -> set of paths."""
    rules = {}
    for room in ROOMS:
        for folder, _, names in os.walk(os.path.join(root, room)):
            for name in names:
                if not name.endswith((".h", ".cc")):
                    continue
                path = os.path.join(folder, name)
                for tags in IN_CODE.findall(read(path)):
                    for rule in tags.split(", "):
                        rules.setdefault(rule, set()).add(os.path.relpath(path, root))
    return rules


def faults_of(root):
    folder = os.path.join(root, "tests", "model")
    model = rules_of_model(folder)
    table = rules_of_table(os.path.join(folder, "rules.txt"))
    code = rules_of_code(root)
    for rule in sorted(set(model) | set(table) | set(code)):
        if rule not in model:
            yield f"{rule}: the model has no such rule"
            continue
        path, function = model[rule]
        if table.get(rule) != model[rule]:
            yield f"{rule}: rules.txt says {table.get(rule)}, the model {model[rule]}"
        if rule not in code:
            yield f"{rule}: no comment \"Model rule: {rule}\"; expected in {path}, {function}"
        elif path not in code[rule]:
            yield f"{rule}: expected in {path}, found in {', '.join(sorted(code[rule]))}"
        elif not re.search(rf"\b{function}\b", read(os.path.join(root, path))):
            yield f"{rule}: {path} has no {function}"


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    faults = list(faults_of(sys.argv[1]))
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
