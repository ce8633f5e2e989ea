"""Compares the rules that the coherence model names with those that the code names.

Usage: check_rules.py PROJECT_ROOT. A rule is "rule: NAME path:Function" in tests/model/*.pml, a line
"NAME path Function" in tests/model/rules.txt, and a comment "Model rule: NAME" above that function.
A rule that the simulator can switch off, kName of enum Rule in libapta/fabric/coherence.h, is one of
them (NAME), or a line "kName: why the model has no such rule" in rules.txt. Prints one line per rule
that is not in all of them, or not where they say; exits with 1 if there is any.
"""
import os
import re
import sys

ROOMS = ("daemon", "libapta", "scheduler")
IN_MODEL = re.compile(r"rule: ([A-Z][A-Z_0-9]+) ([\w/.]+):(\w+)")
SWITCHES = "libapta/fabric/coherence.h"
UNMODELLED = re.compile(r"(k[A-Z]\w+): \S.*")
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
    """name -> (path, function), and the switches that the model does without."""
    rules, unmodelled = {}, set()
    for line in read(path).split("\n"):
        reason = UNMODELLED.fullmatch(line)
        if reason:
            unmodelled.add(reason.group(1))
        elif line and not line.startswith("#"):
            rule, file, function = line.split()
            rules[rule] = (file, function)
    return rules, unmodelled


def switches_of(path):
    """The names of enum Rule, but for the first and the last."""
    body = re.search(r"enum class Rule [^{]*\{(.*?)\}", read(path), re.DOTALL).group(1)
    names = re.findall(r"^\s*(k\w+)", body, re.MULTILINE)
    return [name for name in names if name not in ("kNone", "kCount")]


def function_below(lines):
    """The name of what is declared or defined in the first lines that are no comment."""
    code = " ".join(line for line in lines[:12] if not line.lstrip().startswith("//"))
    code = re.sub(r"^\s*template\s*<[^{;]*?>\s*(?=\w)", "", code)
    found = re.search(r"(\w+)\s*\(", code)
    return found.group(1) if found else None


def rules_of_code(root):
    """name -> set of (path, function)."""
    rules = {}
    for room in ROOMS:
        for folder, _, names in os.walk(os.path.join(root, room)):
            for name in names:
                if not name.endswith((".h", ".cc")):
                    continue
                path = os.path.join(folder, name)
                lines = read(path).split("\n")
                for number, line in enumerate(lines):
                    for tags in IN_CODE.findall(line):
                        place = (os.path.relpath(path, root), function_below(lines[number + 1:]))
                        for rule in tags.split(", "):
                            rules.setdefault(rule, set()).add(place)
    return rules


def faults_of_switches(switches, table, unmodelled):
    for switch in switches:
        rule = re.sub(r"(?<!^)([A-Z])", r"_\1", switch[1:]).upper()
        if (rule in table) == (switch in unmodelled):
            has = "both" if rule in table else "neither"
            yield f"{switch}: rules.txt has {has}, {rule} and a reason why the model has no such rule"
    for switch in sorted(unmodelled - set(switches)):
        yield f"{switch}: rules.txt gives a reason, and {SWITCHES} has no such rule"


def faults_of(root):
    folder = os.path.join(root, "tests", "model")
    model = rules_of_model(folder)
    table, unmodelled = rules_of_table(os.path.join(folder, "rules.txt"))
    code = rules_of_code(root)
    yield from faults_of_switches(switches_of(os.path.join(root, SWITCHES)), table, unmodelled)
    for rule in sorted(set(model) | set(table) | set(code)):
        if rule not in model:
            yield f"{rule}: the model has no such rule"
            continue
        path, function = model[rule]
        if table.get(rule) != model[rule]:
            yield f"{rule}: rules.txt says {table.get(rule)}, the model {model[rule]}"
        if rule not in code:
            yield f"{rule}: no comment \"Model rule: {rule}\"; expected in {path}, {function}"
            continue
        for place in sorted(code[rule], key=str):
            if place != (path, function):
                yield f"{rule}: expected in {path}, {function}; found in {place[0]}, {place[1]}"


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
