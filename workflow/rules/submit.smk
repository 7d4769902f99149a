# Zip the test split's label maps for CodaLab: complete, or refused.


rule submit:
    input:
        labels=each(LABELS, inputs.shards("test")),
        index=each(rules.prepare.output.index, inputs.dataset),
        card=each(rules.prepare.output.card, inputs.dataset),
    output:
        "<results>/submit/{prediction}.zip",
    log:
        "<results>/logs/submit/{prediction}.log",
    benchmark:
        "<results>/benchmarks/submit/{prediction}.tsv"
    conda:
        "../../envs/vss.yaml"
    params:
        labels=braced("labels", "test"),
        options=jobs.submit_options(plan),
        code=stage_digest("submit"),
    message:
        "Zip the submission {wildcards.prediction}"
    shell:
        "vss submit --labels {params.labels} --index {input.index:q} --card {input.card:q} --out {output:q} {params.options:q}"
        " > {log:q} 2>&1"
