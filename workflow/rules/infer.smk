# Run a model over a shard of videos. `{member}` is `model.tta`.


rule infer:
    input:
        fingerprint=each(rules.finetune.output.fingerprint, inputs.model),
        config=each(rules.finetune.output.config, inputs.model),
        weights=of_any_age(each(rules.finetune.output.weights, inputs.model)),
        index=each(rules.prepare.output.index, inputs.dataset),
        card=each(rules.prepare.output.card, inputs.dataset),
    output:
        labels="<results>/predictions/{member}/{split}/{shard}.labels.h5",
        scores="<results>/predictions/{member}/{split}/{shard}.scores.h5",
        config="<results>/predictions/{member}/{split}/{shard}.config.json",
    log:
        "<results>/logs/infer/{member}.{split}.{shard}.log",
    benchmark:
        "<results>/benchmarks/infer/{member}.{split}.{shard}.tsv"
    wildcard_constraints:
        member=any_of(set(plan.with_scores()) - set(plan.imports)),
    conda:
        "../../envs/vss.yaml"
    resources:
        gpu=1,
    params:
        settings=asked(of_plan(jobs.infer_settings), "member"),
        shards=of_job(inputs.shard_count),
        code=stage_digest("infer"),
    message:
        "Infer {wildcards.member} on {wildcards.split} shard {wildcards.shard}"
    shell:
        "vss lease {resources.gpu} -- vss infer --settings {params.settings:q} --weights {input.weights:q}"
        " --config {input.config:q} --index {input.index:q} --card {input.card:q} --split {wildcards.split}"
        " --shard {wildcards.shard} --shards {params.shards} --out {output:q} > {log:q} 2>&1"


# The same job without class scores, for what no ensemble reads. One shell text serves both, so that a prediction that
# leaves an ensemble is not run again.
use rule infer as infer_labels with:
    output:
        labels="<results>/predictions/{member}/{split}/{shard}.labels.h5",
        config="<results>/predictions/{member}/{split}/{shard}.config.json",
    wildcard_constraints:
        member=any_of(set(plan.members_possible()) - set(plan.with_scores())),
