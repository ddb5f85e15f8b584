"""Writes `elec2.bin` beside it from Elec2 as CSV: `python elec2.py elec2.csv.gz`. Needs river.

Elec2: the electricity market of New South Wales, half-hourly from May 1996 to December 1998, 45,312 rows; public data as
in the PyPI package scikit-multiflow. The file holds whether a Gaussian naive Bayes model, tested on each row and then
trained on it, was wrong (a bit a row, lowest first), and then the demand (a byte a row, in 255ths of its range).
"""

import csv
import gzip
import pathlib
import sys

from river import naive_bayes

HERE = pathlib.Path(__file__).parent

if __name__ == "__main__":
    model, wrong, demand = naive_bayes.GaussianNB(), [], []
    for row in csv.DictReader(gzip.open(sys.argv[1], "rt")):
        x = {name: float(value) for name, value in row.items() if name != "target"}
        wrong.append(model.predict_one(x) != row["target"])
        model.learn_one(x, row["target"])
        demand.append(round(255 * x["feat_3"]))
    bits = sum(bit << i for i, bit in enumerate(wrong))
    (HERE / "elec2.bin").write_bytes(bits.to_bytes(len(wrong) // 8, "little") + bytes(demand))
    print(len(wrong), sum(wrong), min(demand), max(demand))
