# Import what other systems predicted: their files to prediction files like those of `infer`.


rule import_prediction:
    input:
        index=each(rules.prepare.output.index, inputs.dataset),
        card=each(rules.prepare.output.card, inputs.dataset),
    output:
        labels="<results>/predictions/{imported}/{split}/{shard}.labels.h5",
        scores="<results>/predictions/{imported}/{split}/{shard}.scores.h5",
        config="<results>/predictions/{imported}/{split}/{shard}.config.json",
    log:
        "<results>/logs/import/{imported}.{split}.{shard}.log",
    benchmark:
        "<results>/benchmarks/import/{imported}.{split}.{shard}.tsv"
    wildcard_constraints:
        imported=any_of(set(plan.imports) & set(plan.with_scores())),
    conda:
        "../../envs/vss.yaml"
    params:
        settings=asked(of_plan(jobs.import_settings), "imported"),
        content=asked(plan.import_content, "imported", "split", "shard"),
        shards=of_job(inputs.shard_count),
        code=stage_digest("import_prediction"),
    message:
        "Import {wildcards.imported} on {wildcards.split} shard {wildcards.shard}"
    shell:
        "vss import-prediction --settings {params.settings:q} --index {input.index:q} --card {input.card:q}"
        " --split {wildcards.split} --shard {wildcards.shard} --shards {params.shards} --out {output:q} > {log:q} 2>&1"


# The same job without class scores, for what no ensemble reads; as of `infer`.
use rule import_prediction as import_labels with:
    output:
        labels="<results>/predictions/{imported}/{split}/{shard}.labels.h5",
        config="<results>/predictions/{imported}/{split}/{shard}.config.json",
    wildcard_constraints:
        imported=any_of(set(plan.imports) - set(plan.with_scores())),
