"""Signs a small model with Python's `model_signing`, for tests that check its signature without Python.

    pip install model-signing==1.1.1 pyOpenSSL && python make.py

Makes new keys: `key.pem` (P-256), `key384.pem` (P-384), for tests alone, and `p256.sig`, `p384.sig`, `blake3.sig` over
the files named below, which the tests make for themselves.
"""

import pathlib
import tempfile

from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing

here = pathlib.Path(__file__).parent
files = {
    "MLmodel": b"flavors:\n  sklearn: {pickled_model: model.skops}\n",
    "model.skops": bytes(range(256)) * 20,
    # As strings `d.txt` comes before `d/b c.bin`, as paths behind it.
    "d/b c.bin": b"yo\n",
    "d.txt": b"",
    "gr\u00f6\u00dfe.txt": b"x",
    ".gitignore": b"*.tmp\n",
}
for name, curve in {"key": ec.SECP256R1(), "key384": ec.SECP384R1()}.items():
    key = ec.generate_private_key(curve)
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    (here / f"{name}.pem").write_bytes(private)
    (here / f"{name}.pub.pem").write_bytes(public)
with tempfile.TemporaryDirectory() as work:
    model = pathlib.Path(work) / "prices"
    for path, data in files.items():
        (model / path).parent.mkdir(parents=True, exist_ok=True)
        (model / path).write_bytes(data)
    for name, key, algorithm in [("p256", "key", "sha256"), ("p384", "key384", "sha256"), ("blake3", "key", "blake3")]:
        config = hashing.Config().use_file_serialization(hashing_algorithm=algorithm).set_ignored_paths(paths=["model.sig"])
        signer = signing.Config().use_elliptic_key_signer(private_key=here / f"{key}.pem").set_hashing_config(config)
        signer.sign(model, here / f"{name}.sig")
    (model / "README.md").write_bytes(b"# prices\n")
    config = hashing.Config().set_ignored_paths(paths=["model.sig", "README.md", "d"])
    signing.Config().use_elliptic_key_signer(private_key=here / "key.pem").set_hashing_config(config).sign(
        model, here / "ignoring.sig"
    )
