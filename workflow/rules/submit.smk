# Zip the test split's label maps for CodaLab: complete, or refused.


rule submit:
    input:
        labels=lambda wildcards: of_shards(LABELS, split="test", **wildcards),
        index=of_prediction(rules.prepare.output.index),
        card=of_prediction(rules.prepare.output.card),
    output:
        "<results>/submit/{prediction}.zip",
    log:
        "<results>/logs/submit/{prediction}.log",
    benchmark:
        "<results>/benchmarks/submit/{prediction}.tsv"
    conda:
        "../../envs/vss.yaml"
    params:
        labels=lambda wildcards, input: braced(input.labels, wildcards, "test"),
        options=jobs.submit_options(plan),
        code=stage_digest("submit"),
    message:
        "Zip the submission {wildcards.prediction}"
    shell:
        "vss submit --labels {params.labels} --index {input.index:q} --card {input.card:q} --out {output:q} {params.options:q}"
        " > {log:q} 2>&1"
