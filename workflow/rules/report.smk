import time

# The paper's tables beside ours, figures and one HTML page.


rule report:
    input:
        scores=score_file("scores.json"),
        per_class=score_file("per_class.csv"),
        chosen=expand(
            "<results>/ensemble/{ensemble}/chosen.json", ensemble=plan.searched()
        ),
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
        settings=lambda wildcards: report_settings(),
        inputs=report_inputs,
        out=lambda wildcards, output: canonical_json(dict(output.items())),
        code=code_of("report"),
    message:
        "Write the report"
    shell:
        "vss report --settings {params.settings:q} --inputs {params.inputs:q} --out {params.out:q}"
        " --index {input.index:q} --card {input.card:q} > {log:q} 2>&1"


started = time.time()


# What a run that failed has to say, in a line a job; Snakemake's own last word is that something failed.
onerror:
    for job_log in failed_logs(log):
        print(f"failed: {job_log}: {last_line(job_log)}", file=sys.stderr)


# The table where this run wrote it: other targets leave an older one alone.
onsuccess:
    table = Path(config["results"], "report", "table.csv")
    if table.exists() and table.stat().st_mtime >= started:
        shell("vss show-table --table {table:q}")
        print(f"Report: {table.with_name('report.html')}")
