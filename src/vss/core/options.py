"""The arguments that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from vss.core.command_line import Arguments, files, json_object, option, path_or_none

JSON_VALUE: Arguments = {"type": json_object, "metavar": "JSON"}
FILE_OR_NONE: Arguments = {"type": path_or_none, "metavar": "FILE"}

SETTINGS = option("--settings", required=True, help="settings: a JSON object, or a file that holds one", **JSON_VALUE)
MODEL = option("--model", required=True, help="name in the config")
DEVICE = option("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
RESULTS = option("--results", default="results", help="the config's results folder (default: results)")
AS_JSON = option("--json", dest="as_json", action="store_true", help="print JSON instead of a table")

SPLIT = option("--split", required=True, choices=("train", "val", "test"))
SCORED_SPLIT = option("--split", default="val", choices=("train", "val"), help="one with masks (default: val)")
SHARDS = option("--shards", required=True, type=int)
SHARD = (SPLIT, option("--shard", required=True, type=int), SHARDS)

DATA = files("index", "card")
OUT = files("out")
OUTS = files("out", nargs="+")
MODEL_FILES = files("weights", "fingerprint", "config", "audit")
LOG_FILE = files("log", dest="log_file")
_BY_MEMBER: dict[str, str] = {
    "action": "append",
    "nargs": "+",
    "help": "class scores: once per member, in the settings' order; or once, with as many files for each member",
}
MEMBER_SCORES = files("scores", **_BY_MEMBER)
MEMBER_SCORES_OR_NONE = files("scores", required=False, default=[], **_BY_MEMBER)
