"""The skeleton of the pages: what a user named stays text."""

from __future__ import annotations

import json

from vss.core.page.document import document, json_script, legend, notice, table

HOSTILE = '<script>alert("&")</script>'


def test_what_a_user_named_is_text():
    shown = [table([HOSTILE, "n"], [(HOSTILE, 1234567)]), legend([(HOSTILE, (1, 2, 3))]), notice(HOSTILE)]
    page = document(HOSTILE, "\n".join(shown))
    assert "<script" not in page and page.count("&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;") == 5
    assert "<td>1,234,567</td>" in page and "background:rgb(1, 2, 3)" in page


def test_data_for_a_script_end_no_element():
    element = json_script("x", {HOSTILE: [HOSTILE, None]})
    assert element.count("<script") == element.count("</script") == 1
    assert json.loads(element.partition(">")[2].rpartition("<")[0]) == {HOSTILE: [HOSTILE, None]}


def test_a_page_has_the_style_of_all_pages_and_its_own():
    page = document("t", "<p>b</p>", style="p { margin: 0 }\n", script="run();\n")
    assert page.index("prefers-color-scheme: dark") < page.index("p { margin: 0 }") < page.index("</style>")
    assert page.index("<p>b</p>") < page.index("run();")
    assert "://" not in page, "it asks for no other file"
