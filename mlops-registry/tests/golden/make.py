"""Makes `webhook_signatures.json`: MLflow's webhook signatures, by the recipe of its documentation. The function
`_generate_hmac_signature` of mlflow 3.17.2 gives the same.
"""

import base64
import hashlib
import hmac
import json
import pathlib


def sign(secret, delivery_id, timestamp, payload):
    signed = f"{delivery_id}.{timestamp}.{payload}"
    digest = hmac.new(secret.encode("utf-8"), signed.encode("utf-8"), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode('utf-8')}"


cases = [
    ("s3cret", "d-1", "1700000000", "{}"),
    ("pässwörd 日本", "018f3a64-2b1c-7e2f-9c8d-0123456789ab", "0", '{"data": {"name": "é"}}'),
    ("k" * 100, "", "-1", ""),
]
made = json.dumps([[*case, sign(*case)] for case in cases], ensure_ascii=False, indent=1)
pathlib.Path("webhook_signatures.json").write_text(made + "\n")
