import time

# The paper's tables next to ours, figures and one HTML page: `report`, and of each other dataset that is scored
# `report/DATASET`.
REPORTS = inputs.reports(plan)


# What the report shows, in files: as words of a command line it would be thousands of characters.
rule report_settings:
    output:
        settings="<results>/{report}/settings.json",
        inputs="<results>/{report}/inputs.json",
    log:
        "<results>/logs/{report}.settings.log",
    wildcard_constraints:
        report=any_of(REPORTS),
    localrule: True
    params:
        settings=lambda wildcards: canonical_json(
            jobs.report_settings(REPORTS[wildcards.report])
        ),
        inputs=lambda wildcards: canonical_json(
            jobs.report_inputs(REPORTS[wildcards.report])
        ),
    message:
        "Note what the report shows"
    run:
        for name in ("settings", "inputs"):
            Path(output[name]).write_text(params[name] + "\n", encoding="utf-8")


rule report:
    input:
        settings=rules.report_settings.output.settings,
        inputs=rules.report_settings.output.inputs,
        scores=each(rules.score.output.scores, inputs.scored),
        per_class=each(rules.score.output.per_class, inputs.scored),
        per_video=each(rules.score.output.per_video, inputs.scored),
        draws=each(rules.score.output.draws, inputs.scored),
        chosen=each(rules.search.output.chosen, inputs.searched),
        refiners_chosen=each(
            rules.search_refiner.output.chosen, inputs.searched_refinements
        ),
        logs=expand("<results>/{training}/log.jsonl", training=plan.trainings()),
        labels=each(LABELS, inputs.shown),
        index=each(rules.prepare.output.index, inputs.reported_dataset),
        card=each(rules.check_masks.output[0], inputs.reported_dataset),
    output:
        html="<results>/{report}/report.html",
        viewer="<results>/{report}/viewer.html",
        record="<results>/{report}/report.json",
        crate="<results>/{report}/ro-crate-metadata.json",
        table_csv=report(
            "<results>/{report}/table.csv",
            caption="../report/table.rst",
            category="Scores",
            labels={"figure": "Scores as CSV", "report": "{report}"},
        ),
        table_md="<results>/{report}/table.md",
        table_html=report(
            "<results>/{report}/table.html",
            caption="../report/table.rst",
            category="Scores",
            labels={"figure": "Table of scores", "report": "{report}"},
        ),
        predictions=report(
            "<results>/{report}/predictions.png",
            caption="../report/predictions.rst",
            category="Scores",
            labels={"figure": "mIoU of every prediction", "report": "{report}"},
        ),
        per_class=report(
            "<results>/{report}/per_class.png",
            caption="../report/per_class.rst",
            category="Scores",
            labels={"figure": "IoU per class", "report": "{report}"},
        ),
        scatter=report(
            "<results>/{report}/scatter.png",
            caption="../report/scatter.rst",
            category="Scores",
            labels={
                "figure": "mIoU against consistency and cost",
                "report": "{report}",
            },
        ),
        ranks=report(
            "<results>/{report}/ranks.html",
            caption="../report/ranks.rst",
            category="Scores",
            labels={"figure": "Ranks", "report": "{report}"},
        ),
        confusions=report(
            "<results>/{report}/confusions.png",
            caption="../report/confusions.rst",
            category="Scores",
            labels={"figure": "Confusions", "report": "{report}"},
        ),
        reliability=report(
            "<results>/{report}/reliability.png",
            caption="../report/reliability.rst",
            category="Scores",
            labels={"figure": "Reliability", "report": "{report}"},
        ),
        curves=report(
            "<results>/{report}/training_curves.png",
            caption="../report/curves.rst",
            category="Training",
            labels={"figure": "Training curves", "report": "{report}"},
        ),
        overlays=report(
            "<results>/{report}/overlays.png",
            caption="../report/overlays.rst",
            category="Frames",
            labels={"figure": "Predictions of frames", "report": "{report}"},
        ),
    log:
        "<results>/logs/{report}.log",
    wildcard_constraints:
        report=any_of(REPORTS),
    conda:
        "../../envs/vss.yaml"
    params:
        folder=lambda wildcards, output: os.path.dirname(output.html),
        code=stage_digest("report"),
    message:
        "Write the report"
    shell:
        "vss report --settings {input.settings:q} --inputs {input.inputs:q} --folder {params.folder:q}"
        " --index {input.index:q} --card {input.card:q} > {log:q} 2>&1"


rule track:
    input:
        record=expand(rules.report.output.record, report="report"),
        pictures=expand(
            [
                rules.report.output.predictions,
                rules.report.output.per_class,
                rules.report.output.curves,
                rules.report.output.overlays,
            ],
            report="report",
        ),
        logs=expand("<results>/{training}/log.jsonl", training=plan.trainings()),
    output:
        "<results>/tracker/passed.json",
    log:
        "<results>/logs/tracker.log",
    conda:
        "../../envs/vss.yaml"
    params:
        settings=canonical_json(config["tracker"]),
        logs=canonical_json(jobs.training_logs(plan)),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
        code=stage_digest("track"),
    message:
        "Pass the report to the tracker"
    shell:
        "vss track --settings {params.settings:q} --record {input.record:q} --pictures {input.pictures:q}"
        " --logs {params.logs:q} --folder {params.folder:q} --out {output:q} > {log:q} 2>&1"


started = time.time()


onstart:
    notes.join()
    jobs.write_config_copy(plan)


# What a run that failed has to say, in a line per job; Snakemake's own last word is that something failed.
onerror:
    print(*failures.failure_lines(log), sep="\n", file=sys.stderr)


# The tables where this run wrote it: other targets leave older ones alone.
onsuccess:
    for name in REPORTS:
        table = Path(config["results"], name, "table.csv")
        if table.exists() and table.stat().st_mtime >= started:
            shell("vss show-table --table {table:q}")
            print(f"Report: {table.with_name('report.html')}")
