# Average stored class scores; optionally choose the weights on val first.


rule search:
    input:
        scores=member_scores("val", None),
        index=INDEX,
        card=CARD,
    output:
        "<results>/ensemble/{ensemble}/chosen.json",
    log:
        "<results>/logs/ensemble/{ensemble}.search.log",
    conda:
        "../../envs/vss.yaml"
    params:
        settings=search_settings,
        shards=shards("val"),
        code=code_of("search"),
    message:
        "Choose the weights of {wildcards.ensemble} on val"
    shell:
        "vss search --settings {params.settings:q} --scores {input.scores:q} --index {input.index:q}"
        " --card {input.card:q} --split val --shards {params.shards} --out {output:q} > {log:q} 2>&1"


rule ensemble:
    input:
        unpack(chosen_weights),
        scores=member_scores(None, "one"),
        index=INDEX,
    output:
        labels="<results>/predictions/{ensemble}/{split}/{shard}.labels.h5",
    log:
        "<results>/logs/ensemble/{ensemble}.{split}.{shard}.log",
    conda:
        "../../envs/vss.yaml"
    params:
        settings=ensemble_settings,
        chosen=lambda wildcards, input: (
            ["--chosen", input.chosen] if "chosen" in input.keys() else []
        ),
        shards=shard_count,
        code=code_of("ensemble"),
    message:
        "Ensemble {wildcards.ensemble} on {wildcards.split} shard {wildcards.shard}"
    shell:
        "vss ensemble --settings {params.settings:q} --scores {input.scores:q} {params.chosen:q}"
        " --index {input.index:q} --split {wildcards.split} --shard {wildcards.shard} --shards {params.shards}"
        " --out {output.labels:q} > {log:q} 2>&1"
