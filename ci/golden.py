"""Makes the golden numbers of each crate again, beside a copy of its script, and compares them with those committed."""

import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Another processor may round differently in the last digits; the tests themselves state their own tolerances.
RELATIVE = 1e-9


def differences(path, old, new):
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if key in ("versions", "made_with", "packages"):
                continue
            if key not in old or key not in new:
                yield f"{path}/{key}: only on one side"
            else:
                yield from differences(f"{path}/{key}", old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{path}: {len(old)} and {len(new)} entries"
        for i, (a, b) in enumerate(zip(old, new)):
            yield from differences(f"{path}[{i}]", a, b)
    elif isinstance(old, (int, float)) and isinstance(new, (int, float)) and not isinstance(old, bool):
        if not math.isclose(old, new, rel_tol=RELATIVE, abs_tol=1e-300):
            yield f"{path}: {old} and {new}"
    elif old != new:
        yield f"{path}: {old!r} and {new!r}"


failed = False
for folder in sorted({script.parent for script in ROOT.glob("mlops-*/tests/golden/make*.py")}):
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "golden"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.json"))
        for script in sorted(copy.glob("make*.py")):
            subprocess.run([sys.executable, script.name], cwd=copy, check=True, stdout=subprocess.DEVNULL)
        committed = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
        made = {path.name: json.loads(path.read_text()) for path in copy.glob("*.json")}
    found = list(differences(folder.parent.parent.name, committed, made))
    print(f"{folder.relative_to(ROOT)}: {len(committed)} files, {len(found)} differences")
    for line in found[:10]:
        print("  ", line)
    failed |= bool(found) or not committed
sys.exit(failed)
