"""Exchanges packages with Python's own programs, both ways.

    python packages.py EXAMPLE WORK

EXAMPLE is the program of mlops-core/examples/package_files.rs, WORK a folder to work in.

- a directory that mlflow wrote is a package, and comes out byte for byte
- what we sign, `model_signing` accepts; what it signs, we accept; by SHA-256 and BLAKE3, on P-256 and P-384
- both refuse any byte changed, any file added, removed or renamed, another key, a bundle cut short or swapped
- half a GiB is packed, unpacked, signed and verified in 128 MiB of memory
- our archives are unpacked by tarfile and tar, and theirs by us; equal packages are equal archives
"""

import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tarfile

import mlflow.pyfunc
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying

example, work = sys.argv[1], pathlib.Path(sys.argv[2])
shutil.rmtree(work, ignore_errors=True)
work.mkdir(parents=True)
checks = 0


def ours(*arguments):
    done = subprocess.run([example, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def python_accepts(folder, public):
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=public).verify(folder, folder / "model.sig")
        return True
    except Exception:
        return False


def both(folder, public, accepted, named=""):
    """Both sides agree, and ours names the file."""
    global checks
    ok, said = ours("verify", folder, public)
    assert ok == accepted and named in said, said
    assert python_accepts(folder, public) == accepted, (folder, said)
    checks += 1


def key(name, curve):
    private = ec.generate_private_key(curve)
    pem = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    (work / f"{name}.pem").write_bytes(pem)
    pem = private.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    (work / f"{name}.pub.pem").write_bytes(pem)
    return work / f"{name}.pem", work / f"{name}.pub.pem"


class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input


def model(folder):
    """What mlflow writes, and names that are sorted, escaped or ignored differently by careless programs."""
    mlflow.pyfunc.save_model(folder, python_model=Model(), pip_requirements=[])
    for path, data in {"d/b c.bin": b"yo", "d.txt": b"", "größe.bin": bytes(range(256)) * 4000, ".gitignore": b"*"}.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(data)


plain = work / "plain"
model(plain)
keys = {"p256": key("p256", ec.SECP256R1()), "p384": key("p384", ec.SECP384R1())}
_, stranger = key("stranger", ec.SECP256R1())
for curve, (private, public) in keys.items():
    for algorithm in ["sha256", "blake3"]:
        by_us = work / f"{curve}-{algorithm}-by-us"
        ok, said = ours("sign", plain, private, by_us, algorithm)
        assert ok, said
        assert {p: d for p, d in files(by_us).items() if p != "model.sig"} == files(plain)
        by_python = work / f"{curve}-{algorithm}-by-python"
        shutil.copytree(plain, by_python)
        config = hashing.Config().use_file_serialization(hashing_algorithm=algorithm)
        config.set_ignored_paths(paths=["model.sig"])
        signer = signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(config)
        signer.sign(by_python, by_python / "model.sig")
        for signed in [by_us, by_python]:
            both(signed, public, True)
            both(signed, stranger, False, "model.sig")
            for edit in ["change", "add", "remove", "rename", "cut", "swap"]:
                bad = work / "bad"
                shutil.rmtree(bad, ignore_errors=True)
                shutil.copytree(signed, bad)
                file = bad / "größe.bin"
                named = "größe.bin"
                if edit == "change":
                    data = bytearray(file.read_bytes())
                    data[len(data) // 2] ^= 1
                    file.write_bytes(data)
                elif edit == "add":
                    (bad / "extra").write_bytes(b"x")
                    named = "extra"
                elif edit == "remove":
                    file.unlink()
                elif edit == "rename":
                    file.rename(bad / "groesse.bin")
                    named = "groesse.bin"
                elif edit == "cut":
                    sig = bad / "model.sig"
                    sig.write_bytes(sig.read_bytes()[:-10])
                    named = "model.sig"
                else:
                    text = (bad / "model.sig").read_text()
                    start = text.index('"payload":"') + len('"payload":"') + 40
                    letter = "A" if text[start] != "A" else "B"
                    (bad / "model.sig").write_text(text[:start] + letter + text[start + 1 :])
                    named = "model.sig"
                both(bad, public, False, named)

ok, said = ours("pack", plain, work / "ours.tar")
assert ok, said
assert ours("pack", plain, work / "again.tar")[0]
assert (work / "ours.tar").read_bytes() == (work / "again.tar").read_bytes()
with tarfile.open(work / "ours.tar") as archive:
    archive.extractall(work / "by-tarfile", filter="data")
(work / "by-tar").mkdir()
warned = subprocess.run(["tar", "-xf", work / "ours.tar", "-C", work / "by-tar"], capture_output=True, check=True)
assert not warned.stderr, warned.stderr
assert files(work / "by-tarfile") == files(work / "by-tar") == files(plain)
for name, layout in {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}.items():
    long = work / f"long-{name}"
    shutil.copytree(plain, long)
    (long / ("x" * 120)).mkdir()
    (long / ("x" * 120) / ("y" * 120)).write_bytes(b"z" * 513)
    with tarfile.open(work / f"{name}.tar", "w", format=layout) as archive:
        archive.add(long, ".")
    ok, said = ours("unpack", work / f"{name}.tar", work / f"from-{name}")
    assert ok and files(work / f"from-{name}") == files(long), said
    with tarfile.open(work / f"{name}-link.tar", "w", format=layout) as archive:
        archive.add(long, ".")
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    ok, said = ours("unpack", work / f"{name}-link.tar", work / "never")
    assert not ok and "symbolic link" in said and not (work / "never").exists(), said

large = work / "large"
shutil.copytree(plain, large)
with open(large / "weights.bin", "wb") as file:
    for _ in range(512):
        file.write(os.urandom(1 << 20))
for arguments in [
    ["pack", large, work / "large.tar"],
    ["unpack", work / "large.tar", work / "large-back"],
    ["sign", large, keys["p256"][0], work / "large-signed"],
    ["verify", work / "large-signed", keys["p256"][1]],
]:
    ok, said = ours(*arguments)
    assert ok, said
assert files(work / "large-back") == files(large)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
assert peak < 128, f"{peak} MiB"
for name in ["large", "large-back", "large-signed"]:
    shutil.rmtree(work / name)
(work / "large.tar").unlink()

print(f"512 MiB packed, unpacked, signed and verified in at most {peak} MiB of memory")
print(f"{checks} signatures agreed on with model_signing, archives exchanged with tarfile and tar")
