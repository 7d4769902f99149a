# Average stored class scores; optionally choose the weights on val first.


rule search:
    input:
        scores=each(rules.infer.output.scores, inputs.members_on_val),
        index=INDEX,
        card=expand(MASKS, split="val"),
    output:
        chosen="<results>/ensemble/{ensemble}/chosen.json",
    log:
        "<results>/logs/ensemble/{ensemble}.search.log",
    benchmark:
        "<results>/benchmarks/ensemble/{ensemble}.search.tsv"
    conda:
        "../../envs/vss.yaml"
    params:
        settings=asked(of_plan(jobs.search_settings), "ensemble"),
        scores=lambda wildcards, input: jobs.scores_options(
            input.scores, plan.shards("val")
        ),
        shards=len(plan.shards("val")),
        code=stage_digest("search"),
    message:
        "Choose the weights of {wildcards.ensemble} on val"
    shell:
        "vss search --settings {params.settings:q} {params.scores} --index {input.index:q}"
        " --card {input.card:q} --split val --shards {params.shards} --out {output:q} > {log:q} 2>&1"


rule ensemble:
    input:
        unpack(present(chosen=each(rules.search.output.chosen, inputs.chosen_weights))),
        scores=each(rules.infer.output.scores, inputs.members),
        index=each(rules.prepare.output.index, inputs.dataset),
    output:
        labels="<results>/predictions/{ensemble}/{split}/{shard}.labels.h5",
    log:
        "<results>/logs/ensemble/{ensemble}.{split}.{shard}.log",
    benchmark:
        "<results>/benchmarks/ensemble/{ensemble}.{split}.{shard}.tsv"
    conda:
        "../../envs/vss.yaml"
    params:
        settings=asked(of_plan(jobs.ensemble_settings), "ensemble"),
        chosen=optional("chosen"),
        shards=of_job(inputs.shard_count),
        code=stage_digest("ensemble"),
    message:
        "Ensemble {wildcards.ensemble} on {wildcards.split} shard {wildcards.shard}"
    shell:
        "vss ensemble --settings {params.settings:q} --scores {input.scores:q} {params.chosen:q}"
        " --index {input.index:q} --split {wildcards.split} --shard {wildcards.shard} --shards {params.shards}"
        " --out {output.labels:q} > {log:q} 2>&1"
