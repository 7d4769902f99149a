# The paper's tables beside ours, figures and one HTML page.


def report_settings():
    rows = [
        {
            "name": name,
            "title": plan.title(name),
            "table": row.get("table"),
            "paper": row.get("paper", {}),
        }
        for name, row in plan.predictions.items()
    ]
    return canonical_json(
        {
            **config["report"],
            "protocol": config["protocol"],
            "split": plan.split,
            "rows": rows,
            "shown": plan.shown(),
        }
    )


def score_file(name):
    return expand(
        "<results>/score/{prediction}/{split}/{name}",
        prediction=plan.scored(),
        split=plan.split,
        name=name,
    )


def training_logs():
    return [
        *expand("<results>/pretrain/{model}/log.jsonl", model=plan.pretrained()),
        *expand("<results>/finetune/{model}/log.jsonl", model=plan.finetuned()),
    ]


def shown_labels():
    return [
        path
        for prediction in plan.shown()
        for path in labels_of(prediction, plan.split)
    ]


rule report:
    input:
        scores=score_file("scores.json"),
        per_class=score_file("per_class.csv"),
        logs=training_logs(),
        labels=shown_labels(),
        index=INDEX,
        card=CARD,
    output:
        html="<results>/report/report.html",
        table_csv=report(
            "<results>/report/table.csv",
            caption="../report/table.rst",
            category="Scores",
        ),
        table_md="<results>/report/table.md",
        table_html=report(
            "<results>/report/table.html",
            caption="../report/table.rst",
            category="Scores",
        ),
        per_class=report(
            "<results>/report/per_class.png",
            caption="../report/per_class.rst",
            category="Scores",
        ),
        curves=report(
            "<results>/report/training_curves.png",
            caption="../report/curves.rst",
            category="Training",
        ),
        overlays=report(
            "<results>/report/overlays.png",
            caption="../report/overlays.rst",
            category="Frames",
        ),
    log:
        "<results>/logs/report.log",
    conda:
        "../../envs/vss.yaml"
    params:
        settings=report_settings(),
        code=code_of("report"),
    message:
        "Write the report"
    shell:
        "vss report --settings {params.settings:q} --scores {input.scores:q} --per-class {input.per_class:q}"
        " --logs {input.logs:q} --labels {input.labels:q} --index {input.index:q} --card {input.card:q}"
        " --html {output.html:q} --table-csv {output.table_csv:q} --table-md {output.table_md:q}"
        " --table-html {output.table_html:q} --per-class-png {output.per_class:q} --curves {output.curves:q}"
        " --overlays {output.overlays:q} > {log:q} 2>&1"


onsuccess:
    shell("vss show-table --table {rules.report.output.table_csv:q}")
