"""Reads the model card that mlops-registry/examples/model_card.rs wrote with the programs it is for.

    python model_card.py DIR

- `huggingface_hub` reads the front matter, with every evaluation
- the CycloneDX library validates the bill of materials strictly and finds the model card
- the page parses as HTML with every tag closed
"""

import html.parser
import json
import pathlib
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard

folder = pathlib.Path(sys.argv[1])
card = ModelCard.load(folder / "card.md")
assert card.data.license == "apache-2.0" and card.data.datasets == ["elec2"], card.data
results = card.data.eval_results
assert [(r.metric_type, r.metric_value) for r in results] == [("accuracy", v) for v in [0.912, 0.884, 0.926]], results
assert {r.task_type for r in results} == {"tabular-classification"}
assert card.text.lstrip().startswith("# prices v1\n")

bill = (folder / "card.cdx.json").read_text()
fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill)
assert fault is None, fault
component = json.loads(bill)["metadata"]["component"]
assert component["type"] == "machine-learning-model" and len(component["modelCard"]) == 3


class Page(html.parser.HTMLParser):
    VOID = {"meta"}

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data):
        self.text.append(data)


page = Page()
page.feed((folder / "card.html").read_text())
page.close()
assert not page.open, page.open
assert "approved by rob" in " ".join(page.text)
print(f"{len(results)} evaluations read by huggingface_hub, a bill of {len(json.loads(bill)['components'])} components is valid")
