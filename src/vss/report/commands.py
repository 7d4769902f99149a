"""The commands of the report."""

from __future__ import annotations

from vss.core.command_line import Command, files, option
from vss.core.options import DATA, JSON_VALUE, SETTINGS

REPORT = Command(
    "report",
    "vss.report.run:report",
    "Write the tables, figures and the HTML page.",
    (
        *DATA,
        option("--inputs", required=True, help="input files by kind and name", **JSON_VALUE),
        *files("folder"),
        SETTINGS,
    ),
)
TRACK = Command(
    "track",
    "vss.report.tracker:track",
    "Pass a written report and its training curves to an experiment tracker.",
    (
        *files("record"),
        *files("pictures", nargs="+"),
        option("--logs", required=True, help="training logs by stage/model", **JSON_VALUE),
        *files("folder", "out"),
        SETTINGS,
    ),
)
SHOW_TABLE = Command(
    "show-table",
    "vss.report.table:print_table",
    "Print a score table in the terminal.",
    files("table", dest="table_csv"),
    prints=True,
)
