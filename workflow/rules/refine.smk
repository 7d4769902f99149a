# Refine label maps: CascadePSP, SSA's vote over mask proposals, or a vote among neighbouring frames. Refiners chain by
# name.


rule train_refiner:
    input:
        index=ancient(INDEX),
        card=ancient(CARD),
        settings="<results>/refine/{refiner}/settings.json",
    output:
        weights="<results>/refine/{refiner}/weights.safetensors",
        log="<results>/refine/{refiner}/log.jsonl",
        fingerprint="<results>/refine/{refiner}/fingerprint.json",
    log:
        "<results>/logs/refine/{refiner}.train.log",
    benchmark:
        "<results>/benchmarks/refine/{refiner}.train.tsv"
    wildcard_constraints:
        refiner=any_of(filter(plan.trains_refiner, plan.refiners)),
    conda:
        "../../envs/vss.yaml"
    resources:
        gpu=1,
    params:
        work_dir=work_dir("refine/{refiner}"),
    message:
        "Train the refinement network of {wildcards.refiner}"
    shell:
        "vss lease {resources.gpu} -- vss train-refiner --settings {input.settings:q} --index {input.index:q}"
        " --card {input.card:q} --weights {output.weights:q} --fingerprint {output.fingerprint:q}"
        " --log {output.log:q} --work-dir {params.work_dir:q} > {log:q} 2>&1"
        + KEEP_LOG


rule propose:
    input:
        index=INDEX,
        card=CARD,
    output:
        "<results>/proposals/{proposals}/{split}/{shard}.h5",
    log:
        "<results>/logs/propose/{proposals}.{split}.{shard}.log",
    benchmark:
        "<results>/benchmarks/propose/{proposals}.{split}.{shard}.tsv"
    conda:
        "../../envs/vss.yaml"
    resources:
        gpu=asked(plan.proposals_gpu, "proposals"),
    params:
        weights=uncompared(of_plan(jobs.proposals_weights), "proposals"),
        content=asked(plan.proposals_content, "proposals"),
        settings=asked(of_plan(jobs.proposals_settings), "proposals"),
        cache=uncompared(of_plan(jobs.proposals_cache)),
        shards=of_job(inputs.shard_count),
        code=stage_digest("propose"),
    message:
        "Propose masks ({wildcards.proposals}) on {wildcards.split} shard {wildcards.shard}"
    shell:
        "vss lease {resources.gpu} -- vss propose --settings {params.settings:q} --weights={params.weights:q}"
        " --cache={params.cache:q}"
        " --index {input.index:q} --card {input.card:q} --split {wildcards.split} --shard {wildcards.shard}"
        " --shards {params.shards} --out {output:q} > {log:q} 2>&1"


rule flow:
    input:
        index=INDEX,
        card=CARD,
    output:
        "<results>/flow/{flow}/{split}/{shard}.h5",
    log:
        "<results>/logs/flow/{flow}.{split}.{shard}.log",
    benchmark:
        "<results>/benchmarks/flow/{flow}.{split}.{shard}.tsv"
    wildcard_constraints:
        flow=any_of(plan.flow_sets()),
    conda:
        "../../envs/vss.yaml"
    resources:
        gpu=asked(plan.flow_gpu, "flow"),
    params:
        method=asked(of_plan(jobs.flow_method), "flow"),
        weights=uncompared(of_plan(jobs.flow_weights), "flow"),
        shards=of_job(inputs.shard_count),
        code=stage_digest("flow"),
    message:
        "Compute optical flow ({wildcards.flow}) on {wildcards.split} shard {wildcards.shard}"
    shell:
        "vss lease {resources.gpu} -- vss flow --method {params.method} --weights={params.weights:q}"
        " --index {input.index:q} --card {input.card:q} --split {wildcards.split} --shard {wildcards.shard}"
        " --shards {params.shards} --out {output:q} > {log:q} 2>&1"


rule search_refiner:
    input:
        unpack(
            present(
                flow=each(rules.flow.output[0], inputs.flow),
                scores=each(SCORES, inputs.scores),
            )
        ),
        labels=each(LABELS, inputs.shards("val")),
        index=INDEX,
        card=expand(MASKS, split="val"),
    output:
        chosen="<results>/refine/{prediction}.{refiner}/chosen.json",
    log:
        "<results>/logs/refine/{prediction}.{refiner}.search.log",
    benchmark:
        "<results>/benchmarks/refine/{prediction}.{refiner}.search.val.tsv"
    conda:
        "../../envs/vss.yaml"
    params:
        settings=asked(of_plan(jobs.search_refiner_settings), "refiner"),
        files=lambda wildcards, input: " ".join(
            f"--{name} {jobs.braced(input[name], plan.shards('val'))}"
            for name in ("labels", "flow", "scores")
            if name in input.keys()
        ),
        shards=len(plan.shards("val")),
        code=stage_digest("search_refiner"),
    message:
        "Choose the settings of {wildcards.refiner} for {wildcards.prediction} on val"
    shell:
        "vss search-refiner --settings {params.settings:q} {params.files} --index {input.index:q}"
        " --card {input.card:q} --split val --shards {params.shards} --out {output:q} > {log:q} 2>&1"


rule refine:
    input:
        unpack(
            present(
                weights=of_any_age(
                    each(rules.train_refiner.output.weights, inputs.trained_refiner)
                ),
                fingerprint=each(
                    rules.train_refiner.output.fingerprint, inputs.trained_refiner
                ),
                proposals=each(rules.propose.output[0], inputs.proposals),
                flow=each(rules.flow.output[0], inputs.flow),
                scores=each(SCORES, inputs.scores),
                chosen=each(
                    rules.search_refiner.output.chosen, inputs.chosen_settings
                ),
            )
        ),
        labels=LABELS,
        index=INDEX,
        card=CARD,
    output:
        "<results>/predictions/{prediction}.{refiner}/{split}/{shard}.labels.h5",
    log:
        "<results>/logs/refine/{prediction}.{refiner}.{split}.{shard}.log",
    benchmark:
        "<results>/benchmarks/refine/{prediction}.{refiner}.{split}.{shard}.tsv"
    conda:
        "../../envs/vss.yaml"
    resources:
        gpu=asked(plan.refiner_gpu, "refiner"),
    params:
        weights=uncompared(of_plan(jobs.refiner_weights), "refiner"),
        content=asked(plan.published_content, "refiner"),
        settings=asked(of_plan(jobs.refine_settings), "refiner"),
        proposals=optional("proposals"),
        flow=optional("flow"),
        scores=optional("scores"),
        chosen=optional("chosen"),
        shards=of_job(inputs.shard_count),
        code=stage_digest("refine"),
    message:
        "Refine {wildcards.prediction} by {wildcards.refiner} on {wildcards.split} shard {wildcards.shard}"
    shell:
        "vss lease {resources.gpu} -- vss refine --settings {params.settings:q} --labels {input.labels:q}"
        " --weights={params.weights:q} {params.proposals:q} {params.flow:q} {params.scores:q}"
        " {params.chosen:q} --index {input.index:q} --card {input.card:q} --split {wildcards.split} --shard {wildcards.shard} --shards {params.shards} --out {output:q} > {log:q} 2>&1"
