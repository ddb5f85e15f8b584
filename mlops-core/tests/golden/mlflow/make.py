"""Writes the MLmodel files beside this one: what `mlflow.sklearn.save_model` makes of several signatures.

    pip install mlflow-skinny==3.17.2 scikit-learn==1.9.1 skops pandas && python make.py

Only ids and times differ from one run to the next.
"""

import pathlib
import shutil
import tempfile

import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

x = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1, 0, 1, 0]})
model = LogisticRegression().fit(x, [0, 0, 1, 1])
frame = pd.DataFrame({"y": model.predict(x)})
made = {
    "plain": {},
    "columns": {"signature": infer_signature(x, frame.y.to_numpy()), "input_example": x},
    "params": {"signature": infer_signature(x, frame, params={"t": 0.5}), "metadata": {"größe": "ä", "n": 1}},
    "tensors": {"signature": infer_signature(x.to_numpy(), frame.y.to_numpy())},
    "inputs_only": {"signature": infer_signature(x)},
}
here = pathlib.Path(__file__).parent
for name, options in made.items():
    with tempfile.TemporaryDirectory() as work:
        mlflow.sklearn.save_model(model, f"{work}/model", **options)
        shutil.copy(f"{work}/model/MLmodel", here / f"{name}.MLmodel")
