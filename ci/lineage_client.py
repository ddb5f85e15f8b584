"""Reads lineage events with the model classes of the OpenLineage client, and writes them again.

Usage: lineage_client.py FILE. Fails if the client lacks a field that we write, changes a value, or follows
another model of a facet's schema than the one we name.
"""

import enum
import json
import re
import sys
import types
import typing

import attr
from openlineage.client import event_v2, facet_v2
from openlineage.client.serde import Serde

FACETS = {
    "parent": facet_v2.parent_run.ParentRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "sourceCodeLocation": facet_v2.source_code_location_job.SourceCodeLocationJobFacet,
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "columnLineage": facet_v2.column_lineage_dataset.ColumnLineageDatasetFacet,
    "facets.dataQualityMetrics": facet_v2.data_quality_metrics_dataset.DataQualityMetricsDatasetFacet,
    "inputFacets.dataQualityMetrics": facet_v2.data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet,
}
seen = set()


def build(kind, value):
    """`value`, from JSON, as the client's `kind`."""
    arms = [arm for arm in typing.get_args(kind) if arm is not type(None)]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return None if value is None else build(arms[0], value)
    if typing.get_origin(kind) is list:
        return [build(arms[0], item) for item in value]
    if typing.get_origin(kind) is dict:
        return {key: build(arms[1], item) for key, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if not attr.has(kind):
        return value
    attr.resolve_types(kind)
    fields = {field.name: field for field in attr.fields(kind)}
    made = {}
    for name, item in value.items():
        if name in ("facets", "inputFacets", "outputFacets"):
            made[name] = {key: facet(name, key, part) for key, part in item.items()}
        elif name not in ("_producer", "_schemaURL", "schemaURL"):
            made[name] = build(fields[name].type, item)
    return kind(**made)


def facet(place, name, value):
    seen.add(f"{place}.{name}")
    if name.startswith("mlops_"):
        return value  # a facet of our own, which the client carries as it is
    kind = FACETS.get(f"{place}.{name}") or FACETS[name]
    made = build(kind, value)
    # MODEL-REVISION-ADDITION: within one model, what is newer only adds.
    theirs, ours = (re.sub(r"/(\d+)-\d+-\d+/", r"/\1/", url) for url in (made._schemaURL, value["_schemaURL"]))
    assert theirs == ours, f"{name}: the client follows {made._schemaURL}, we say {value['_schemaURL']}"
    made._schemaURL = value["_schemaURL"]
    made._producer = value["_producer"]
    return made


def lean(value):
    """Without what the client writes where we write nothing: empty objects, lists and nulls."""
    if isinstance(value, dict):
        kept = {key: lean(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in ({}, [], None)}
    return [lean(item) for item in value] if isinstance(value, list) else value


def main(path):
    events = [json.loads(line) for line in open(path, encoding="utf-8")]
    for event in events:
        made = build(event_v2.RunEvent, event)
        assert made.schemaURL == event["schemaURL"], made.schemaURL
        again = json.loads(Serde.to_json(made))
        assert lean(again) == lean(event), f"\nours    {lean(event)}\nclient's {lean(again)}"
    for name in FACETS:
        assert name in seen or f"facets.{name}" in seen, f"no facet {name} was read"
    print(f"{len(events)} events with {len(seen)} kinds of facets read and written again by the OpenLineage client")


main(sys.argv[1])
