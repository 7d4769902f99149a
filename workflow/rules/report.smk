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
            "titles": {model: plan.title(model) for model in plan.models},
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


def report_inputs(wildcards, input):
    """The input files by the names of what they belong to."""
    files = {
        "scores": dict(zip(plan.scored(), input.scores)),
        "per_class": dict(zip(plan.scored(), input.per_class)),
        "logs": dict(zip(plan.trainings(), input.logs)),
        "labels": {},
    }
    each = shards(plan.split)
    for number, prediction in enumerate(plan.shown()):
        files["labels"][prediction] = input.labels[number * each : (number + 1) * each]
    return canonical_json(files)


rule report:
    input:
        scores=score_file("scores.json"),
        per_class=score_file("per_class.csv"),
        logs=expand("<results>/{training}/log.jsonl", training=plan.trainings()),
        labels=[
            path
            for prediction in plan.shown()
            for path in labels_of(prediction, plan.split)
        ],
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
        predictions=report(
            "<results>/report/predictions.png",
            caption="../report/predictions.rst",
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
        inputs=report_inputs,
        out=lambda wildcards, output: canonical_json(dict(output.items())),
        code=code_of("report"),
    message:
        "Write the report"
    shell:
        "vss report --settings {params.settings:q} --inputs {params.inputs:q} --out {params.out:q}"
        " --index {input.index:q} --card {input.card:q} > {log:q} 2>&1"


onsuccess:
    table = Path(config["results"], "report", "table.csv")
    if table.exists():
        shell("vss show-table --table {table:q}")
        print(f"Report: {table.with_name('report.html')}")
