"""The RO-Crate metadata of the report's folder."""

from __future__ import annotations

import hashlib
import json

# Terms that the entities may have: all are in the context of RO-Crate 1.1.
TERMS = {
    *(
        "@id",
        "@type",
        "about",
        "conformsTo",
        "contentSize",
        "datePublished",
        "description",
        "encodingFormat",
        "hasPart",
    ),
    *("identifier", "instrument", "license", "mentions", "name", "object", "result", "softwareRequirements", "version"),
}


def references(value):
    if isinstance(value, dict):
        return (
            [value["@id"]] if value.keys() == {"@id"} else [one for item in value.values() for one in references(item)]
        )
    return [one for item in value for one in references(item)] if isinstance(value, list) else []


def test_the_crate_keeps_the_rules(written):
    crate = json.loads(written["crate"].read_text())
    assert crate.keys() == {"@context", "@graph"} and crate["@context"] == "https://w3id.org/ro/crate/1.1/context"
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert len(entities) == len(crate["@graph"]), "one entity per id"
    descriptor, root = entities["ro-crate-metadata.json"], entities["./"]
    assert descriptor["@type"] == "CreativeWork" and descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert root["@type"] == "Dataset" and root["datePublished"] == "2023-11-14"
    assert all(root[key] for key in ("name", "description", "license"))
    assert {key for entity in entities.values() for key in entity} <= TERMS
    outside = set(references(crate["@graph"])) - entities.keys()
    assert outside == {"https://w3id.org/ro/crate/1.1"}, "every entity that is referred to is there"
    reached = {"ro-crate-metadata.json", "./"}
    todo = [root]
    while todo:
        new = set(references(list(todo.pop().values()))) - reached
        reached |= new
        todo += [entities[name] for name in new]
    assert reached == entities.keys(), "every entity is referred to"


def test_files_are_those_of_the_folder(written):
    entities = json.loads(written["crate"].read_text())["@graph"]
    files = {entity["@id"]: entity for entity in entities if entity["@type"] == "File"}
    folder = written["crate"].parent
    assert files.keys() == {path.name for path in folder.iterdir()} - {"ro-crate-metadata.json"}
    for name, entity in files.items():
        content = (folder / name).read_bytes()
        assert entity["contentSize"] == str(len(content))
        assert entity["identifier"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
