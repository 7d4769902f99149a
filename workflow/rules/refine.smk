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
    wildcard_constraints:
        refiner=any_of(filter(plan.trains_refiner, plan.refiners)),
    conda:
        "../../envs/vss.yaml"
    resources:
        gpu=1,
    params:
        settings=lambda wildcards: canonical_json(
            plan.refiners[wildcards.refiner]["training"]
        ),
        work_dir=work_dir("refine/{refiner}"),
    message:
        "Train the refinement network of {wildcards.refiner}"
    shell:
        "vss lease {resources.gpu} -- vss train-refiner --settings {params.settings:q} --index {input.index:q}"
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
    conda:
        "../../envs/vss.yaml"
    resources:
        gpu=lambda wildcards: int(proposer(wildcards)["weights"] is not None),
        weights=lambda wildcards: proposer(wildcards)["weights"] or "",
    params:
        settings=lambda wildcards: canonical_json(proposer(wildcards)["proposals"]),
        published=lambda wildcards: plan.content_of(proposer(wildcards)["weights"]),
        shards=shard_count,
        code=code_of("propose"),
    message:
        "Propose masks ({wildcards.proposals}) on {wildcards.split} shard {wildcards.shard}"
    shell:
        "vss lease {resources.gpu} -- vss propose --settings {params.settings:q} --weights={resources.weights:q}"
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
        flow="dis",
    conda:
        "../../envs/vss.yaml"
    params:
        shards=shard_count,
        code=code_of("flow"),
    message:
        "Compute optical flow ({wildcards.flow}) on {wildcards.split} shard {wildcards.shard}"
    shell:
        "vss flow --method {wildcards.flow} --index {input.index:q} --card {input.card:q} --split {wildcards.split}"
        " --shard {wildcards.shard} --shards {params.shards} --out {output:q} > {log:q} 2>&1"


rule refine:
    input:
        unpack(refiner_inputs),
        labels="<results>/predictions/{prediction}/{split}/{shard}.labels.h5",
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
        gpu=refiner_gpu,
        weights=refiner_weights,
    params:
        settings=refiner_settings("method", "settings"),
        inputs=optional_inputs("proposals", "flow"),
        published=lambda wildcards: plan.content_of(
            plan.refiners[wildcards.refiner]["weights"]
        ),
        shards=shard_count,
        code=code_of("refine"),
    message:
        "Refine {wildcards.prediction} by {wildcards.refiner} on {wildcards.split} shard {wildcards.shard}"
    shell:
        "vss lease {resources.gpu} -- vss refine --settings {params.settings:q} --labels {input.labels:q}"
        " --weights={resources.weights:q} {params.inputs:q} --index {input.index:q} --card {input.card:q} --split {wildcards.split}"
        " --shard {wildcards.shard} --shards {params.shards} --out {output:q} > {log:q} 2>&1"
