"""The project's layout and form, as far as a machine can see them.

Usage: tidy.py SOURCE_DIR. Prints one line per fault; exits with 1 if there is any.
"""
import os
import re
import sys

ROOT = sys.argv[1]
FOLDERS = ("libapta", "daemon", "shim", "scheduler", "examples", "bench", "tests", "tools")
# Which rooms a room's files may include from (besides their own). Public headers: "apta".
MAY_INCLUDE = {
    "apta": set(),
    "fabric": {"apta"},
    "compute": {"apta", "fabric"},
    "daemon": {"apta", "fabric", "scheduler"},
    "scheduler": {"apta", "fabric"},
    "shim": {"apta"},
    "examples": {"apta"},
    "bench": {"apta", "fabric", "compute", "daemon"},
    "tools": {"apta"},
    "apta-sim": {"apta", "fabric", "compute", "daemon", "scheduler"},
}
ROOMS = set(MAY_INCLUDE)
# What the public API may ask of its users' programs, besides the standard library.
PUBLIC_MAY_INCLUDE = ("apta/", "absl/status/", "absl/types/span.h", "absl/time/time.h")
faults = []


def room_of(path):
    parts = path.split("/")
    if parts[:2] == ["tools", "apta-sim"]:
        return "apta-sim"
    if parts[0] != "libapta":
        return parts[0]
    return {"include": "apta"}.get(parts[1], parts[1])


def check(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        lines = file.read().split("\n")
    is_code = path.endswith((".h", ".cc"))
    if is_code and len(lines) > 600:
        faults.append(f"{path}: {len(lines)} lines; is that one file or two?")
    room = room_of(path)
    own = path[:-3] + ".h"
    if path.endswith(".cc") and os.path.exists(os.path.join(ROOT, own)):
        # So each header is known to compile alone.
        first = next((line for line in lines if line.startswith("#include")), "")
        if not own.endswith(first.removeprefix('#include "').removesuffix('"')):
            faults.append(f"{path}: includes its own header not first")
    for number, line in enumerate(lines, 1):
        if "\t" in line and is_code:
            faults.append(f"{path}:{number}: a tab")
        if is_code and len(line) > 100:
            faults.append(f"{path}:{number}: {len(line)} columns")
        if re.search(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b", line):
            faults.append(f"{path}:{number}: postpones something")
        include = re.match(r'\s*#\s*include\s*([<"])([^">]+)', line)
        if not is_code or not include or room not in MAY_INCLUDE:
            continue
        quote, header = include.groups()
        if ".." in header.split("/"):
            faults.append(f"{path}:{number}: name {header} from its room, without ..")
        other = header.split("/")[0]
        if "/" in header and other in ROOMS and other != room and path.split("/")[0] != other and other not in MAY_INCLUDE[room]:
            faults.append(f"{path}:{number}: {room} may not include from {other}")
        if room == "apta" and ("/" in header or quote == '"'):
            if not header.startswith(PUBLIC_MAY_INCLUDE):
                faults.append(f"{path}:{number}: the public API may not include {header}")


def is_listed(path):
    """Whether a CMakeLists.txt of a folder that holds the source names it: none is globbed, and
    one that is in no list is one that nobody builds."""
    folder = os.path.dirname(path)
    while folder:
        lists = os.path.join(ROOT, folder, "CMakeLists.txt")
        if os.path.exists(lists):
            with open(lists, encoding="utf-8") as file:
                if os.path.relpath(path, folder) in re.split(r"[\s()]+", file.read()):
                    return True
        folder = os.path.dirname(folder)
    return False


for entry in sorted(os.listdir(ROOT)):
    if os.path.isdir(os.path.join(ROOT, entry)):
        if not entry.startswith(".") and entry not in FOLDERS and entry != "build":
            faults.append(f"{entry}/: not one of the project's folders")
for folder in FOLDERS:
    for at, _, files in os.walk(os.path.join(ROOT, folder)):
        for name in sorted(files):
            if name.endswith((".h", ".cc", ".cmake", ".py", ".txt", ".sh")):
                path = os.path.relpath(os.path.join(at, name), ROOT)
                check(path)
                if name.endswith(".cc") and not is_listed(path):
                    faults.append(f"{path}: in no CMakeLists.txt, so nobody builds it")

print("\n".join(faults) if faults else "tidy")
sys.exit(1 if faults else 0)
