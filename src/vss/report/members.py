"""What each member of an ensemble adds, where its weights were chosen on a labelled split."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pandas as pd

from vss.core.errors import UserError
from vss.core.files import JsonObject, read_json


def members_table(chosen: Mapping[str, str | os.PathLike], titles: Mapping[str, str]) -> pd.DataFrame:
    """Returns one row per ensemble and one per member, as text: weight, temperature, mIoU alone and without the member.

    Args:
        chosen: results of `vss search` by ensemble.
        titles: names of ensembles and models; a member is `model.tta`.

    Raises:
        UserError: a file is not a result of a search.
    """
    rows = []
    for ensemble, path in chosen.items():
        result = read_json(path)
        try:
            rows += _rows(titles.get(ensemble, ensemble), result, titles)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: is not a result of `vss search` ({error!r})") from None
    return pd.DataFrame(rows)


def _rows(title: str, result: JsonObject, titles: Mapping[str, str]) -> list[dict[str, str]]:
    total = sum(member["weight"] for member in result["members"])
    given, whole = result["miou"]["given"], result["miou"]["chosen"]
    rows = [_row(title, mIoU=f"{100 * whole:.2f}", before=f"{100 * given:.2f}")]
    for member in result["members"]:
        model, _, tta = member["name"].partition(".")
        rows.append(
            _row(
                ", ".join(filter(None, (titles.get(model, model), tta))),  # an imported prediction has no tta
                weight=f"{member['weight'] / total:.2f}",
                temperature=f"{member['temperature']:.2f}",
                mIoU=f"{100 * result['alone'][member['name']]:.2f}",
                **_without(whole, result["without"][member["name"]]),
            )
        )
    return rows


def _without(whole: float, without: float | None) -> dict[str, str]:
    return {} if without is None else {"without it": f"{100 * without:.2f}", "adds": f"{100 * (whole - without):+.2f}"}


def _row(name: str, **cells: str) -> dict[str, str]:
    columns = ("weight", "temperature", "mIoU", "before", "without it", "adds")
    return {"Ensemble, members": name, **{column: cells.get(column, "") for column in columns}}
