# Read the datasets, or draw them: one index row a frame, a card that says what labels mean, and a check report.


rule prepare:
    input:
        split_lists,
    output:
        index="<results>/prepare/{dataset}/index.csv",
        card="<results>/prepare/{dataset}/dataset.json",
        check="<results>/prepare/{dataset}/check.json",
    log:
        "<results>/logs/prepare/{dataset}.log",
    priority: 3
    conda:
        "../../envs/vss.yaml"
    params:
        settings=prepare_settings,
        content=prepare_content,
        code=code_of("prepare"),
    message:
        "Prepare {wildcards.dataset}"
    shell:
        "vss prepare --dataset {wildcards.dataset} --settings {params.settings:q}"
        " --index {output.index:q} --card {output.card:q} --check {output.check:q} > {log:q} 2>&1"
