# Count agreement with the truth shard by shard, then sum the counts. Reads label maps, and class scores for calibration.


rule score_shard:
    input:
        unpack(
            present(
                scores=each(SCORES, inputs.calibrated),
                refines=each(LABELS, inputs.unrefined),
            )
        ),
        labels=LABELS,
        index=each(rules.prepare.output.index, inputs.dataset),
        card=each(rules.check_masks.output[0], inputs.dataset),
    output:
        counts="<results>/score/{prediction}/{split}/{shard}.npz",
    log:
        "<results>/logs/score/{prediction}.{split}.{shard}.log",
    benchmark:
        "<results>/benchmarks/score/{prediction}.{split}.{shard}.tsv"
    conda:
        "../../envs/vss.yaml"
    resources:
        gpu=int(config["targets"]["flow"] == "raft"),
    params:
        shards=of_job(inputs.shard_count),
        flow=jobs.flow_options(plan),
        flow_content=plan.content_of(config["targets"]["flow_weights"]),
        scores=optional("scores"),
        refines=optional("refines"),
        code=stage_digest("score_shard"),
    message:
        "Count {wildcards.prediction} on {wildcards.split} shard {wildcards.shard}"
    shell:
        # Only RAFT runs a network; a lease takes longer to start than a small shard to count.
        (
            "vss lease {resources.gpu} -- "
            if config["targets"]["flow"] == "raft"
            else ""
        )
        + "vss score-shard --labels {input.labels:q} --index {input.index:q} --card {input.card:q}"
        " --split {wildcards.split} --shard {wildcards.shard} --shards {params.shards} {params.flow:q}"
        " {params.scores:q} {params.refines:q} --out {output:q} > {log:q} 2>&1"


rule score:
    input:
        counts=each(rules.score_shard.output.counts, inputs.shards()),
        card=each(rules.check_masks.output[0], inputs.dataset),
    output:
        scores="<results>/score/{prediction}/{split}/scores.json",
        per_class="<results>/score/{prediction}/{split}/per_class.csv",
        per_video="<results>/score/{prediction}/{split}/per_video.csv",
        draws="<results>/score/{prediction}/{split}/draws.npz",
    log:
        "<results>/logs/score/{prediction}.{split}.log",
    benchmark:
        "<results>/benchmarks/score/{prediction}.{split}.tsv"
    conda:
        "../../envs/vss.yaml"
    params:
        counts=braced("counts"),
        code=stage_digest("score"),
    message:
        "Score {wildcards.prediction} on {wildcards.split}"
    shell:
        "vss score-split --counts {params.counts} --card {input.card:q} --scores {output.scores:q}"
        " --per-class {output.per_class:q} --per-video {output.per_video:q} --draws {output.draws:q}"
        " > {log:q} 2>&1"
