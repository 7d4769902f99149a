# Read the datasets, or draw them: one index row per frame, a card that says what labels mean, and a check report.


rule prepare:
    input:
        lambda wildcards: plan.data_files(wildcards.dataset),
    output:
        index="<results>/prepare/{dataset}/index.csv",
        card="<results>/prepare/{dataset}/dataset.json",
        check="<results>/prepare/{dataset}/check.json",
    log:
        "<results>/logs/prepare/{dataset}.log",
    benchmark:
        "<results>/benchmarks/prepare/{dataset}.tsv"
    priority: 3
    conda:
        "../../envs/vss.yaml"
    params:
        settings=asked(plan.data_settings, "dataset"),
        content=asked(plan.index_content, "dataset"),
        code=stage_digest("prepare"),
    message:
        "Prepare {wildcards.dataset}"
    shell:
        "vss prepare --dataset {wildcards.dataset} --settings {params.settings:q}"
        " --index {output.index:q} --card {output.card:q} --check {output.check:q} > {log:q} 2>&1"


# The index outlives masks that are replaced. What reads the masks of a split takes this card, and reruns; what reads its
# images alone takes the other one, and does not.
rule check_masks:
    input:
        index=rules.prepare.output.index,
        card=rules.prepare.output.card,
    output:
        "<results>/prepare/{dataset}/masks.{split}.json",
    log:
        "<results>/logs/prepare/{dataset}.masks.{split}.log",
    priority: 3
    conda:
        "../../envs/vss.yaml"
    params:
        content=asked(plan.split_content, "dataset", "split"),
        code=stage_digest("check_masks"),
    message:
        "Check the masks of {wildcards.dataset} {wildcards.split} where they changed"
    shell:
        "vss check-masks --index {input.index:q} --card {input.card:q} --split {wildcards.split} --out {output:q}"
        " > {log:q} 2>&1"


# Plain text: `ancient` marks an annotated string in place, and with it every other rule's input.
INDEX = str(*expand(rules.prepare.output.index, dataset=plan.dataset))
CARD = str(*expand(rules.prepare.output.card, dataset=plan.dataset))
MASKS = str(*expand(rules.check_masks.output, dataset=plan.dataset, allow_missing=True))
