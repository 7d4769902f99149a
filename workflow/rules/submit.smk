# Zip the test split's label maps for CodaLab: complete, or refused.


rule submit:
    input:
        labels=lambda wildcards: labels_of(wildcards.prediction, "test"),
        index=INDEX,
        card=CARD,
    output:
        "<results>/submit/{prediction}.zip",
    log:
        "<results>/logs/submit/{prediction}.log",
    conda:
        "../../envs/vss.yaml"
    params:
        fill=["--fill", config["submit"]["fill"]] if config["submit"]["fill"] else [],
        code=code_of("submit"),
    message:
        "Zip the submission {wildcards.prediction}"
    shell:
        "vss submit --labels {input.labels:q} --index {input.index:q} --card {input.card:q} --out {output:q} {params.fill:q}"
        " > {log:q} 2>&1"
