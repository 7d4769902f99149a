# Average stored class scores; optionally choose the weights on val first.


def member_scores(split):
    """The members' score files of a shard, or of all shards, member by member."""
    return lambda wildcards: [
        file
        for member in plan.members(wildcards.ensemble)
        for file in expand(
            rules.infer.output.scores,
            member=member,
            split=split or wildcards.split,
            shard=plan.shards(split) if split else wildcards.shard,
        )
    ]


def searched_scores(wildcards, input):
    """The same as options, `--scores` once per member."""
    each = len(plan.shards("val"))
    starts = range(0, len(input.scores), each)
    return " ".join(
        f"--scores {braced(input.scores[start : start + each], 'val')}"
        for start in starts
    )


def chosen_weights(wildcards):
    if not plan.searches(wildcards.ensemble):
        return {}
    return {"chosen": expand(rules.search.output.chosen, ensemble=wildcards.ensemble)}


rule search:
    input:
        scores=member_scores("val"),
        index=INDEX,
        card=CARD,
    output:
        chosen="<results>/ensemble/{ensemble}/chosen.json",
    log:
        "<results>/logs/ensemble/{ensemble}.search.log",
    conda:
        "../../envs/vss.yaml"
    params:
        settings=asked(of_plan(jobs.search_settings), "ensemble"),
        scores=searched_scores,
        shards=len(plan.shards("val")),
        code=stage_digest("search"),
    message:
        "Choose the weights of {wildcards.ensemble} on val"
    shell:
        "vss search --settings {params.settings:q} {params.scores} --index {input.index:q}"
        " --card {input.card:q} --split val --shards {params.shards} --out {output:q} > {log:q} 2>&1"


rule ensemble:
    input:
        unpack(chosen_weights),
        scores=member_scores(None),
        index=INDEX,
    output:
        labels="<results>/predictions/{ensemble}/{split}/{shard}.labels.h5",
    log:
        "<results>/logs/ensemble/{ensemble}.{split}.{shard}.log",
    conda:
        "../../envs/vss.yaml"
    params:
        settings=asked(of_plan(jobs.ensemble_settings), "ensemble"),
        chosen=optional("chosen"),
        shards=shard_count,
        code=stage_digest("ensemble"),
    message:
        "Ensemble {wildcards.ensemble} on {wildcards.split} shard {wildcards.shard}"
    shell:
        "vss ensemble --settings {params.settings:q} --scores {input.scores:q} {params.chosen:q}"
        " --index {input.index:q} --split {wildcards.split} --shard {wildcards.shard} --shards {params.shards}"
        " --out {output.labels:q} > {log:q} 2>&1"
