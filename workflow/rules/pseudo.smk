# Label frames that have no labels by what predictions are sure of, to train on. One job: a class's threshold is found over all frames.


rule pseudo:
    input:
        scores=each(rules.infer.output.scores, inputs.pseudo_members),
        index=each(rules.prepare.output.index, inputs.dataset),
        card=each(rules.prepare.output.card, inputs.dataset),
    output:
        index="<results>/pseudo/{pseudo}/index.csv",
        card="<results>/pseudo/{pseudo}/dataset.json",
        summary="<results>/pseudo/{pseudo}/summary.json",
        masks=directory("<results>/pseudo/{pseudo}/masks"),
    log:
        "<results>/logs/pseudo/{pseudo}.log",
    benchmark:
        "<results>/benchmarks/pseudo/{pseudo}.tsv"
    conda:
        "../../envs/vss.yaml"
    params:
        settings=asked(plan.pseudo_settings, "pseudo"),
        scores=lambda wildcards, input: jobs.scores_options(
            input.scores,
            inputs.pseudo_shards(plan, wildcards.pseudo),
        ),
        code=stage_digest("pseudo"),
    message:
        "Make the pseudo-labels {wildcards.pseudo}"
    shell:
        "vss pseudo --settings {params.settings:q} {params.scores} --index {input.index:q} --card {input.card:q}"
        " --out-index {output.index:q} --out-card {output.card:q} --summary {output.summary:q} > {log:q} 2>&1"
