# Train on COCO-Stuff. The resumable state lives in <work>, outside the outputs, which Snakemake deletes on failure.


rule pretrain:
    input:
        index=ancient("<results>/prepare/coco_stuff/index.csv"),
        card=ancient("<results>/prepare/coco_stuff/dataset.json"),
        settings="<results>/pretrain/{model}/settings.json",
    output:
        weights="<results>/pretrain/{model}/weights.safetensors",
        config="<results>/pretrain/{model}/config.json",
        log="<results>/pretrain/{model}/log.jsonl",
        audit="<results>/pretrain/{model}/audit.json",
        fingerprint="<results>/pretrain/{model}/fingerprint.json",
    log:
        "<results>/logs/pretrain/{model}.log",
    benchmark:
        "<results>/benchmarks/pretrain/{model}.tsv"
    wildcard_constraints:
        model=any_of(plan.pretrained()),
    # The longest chain begins here: everything else fits beside it.
    priority: 2
    conda:
        "../../envs/vss.yaml"
    resources:
        gpu=training_gpus("pretrain"),
        # What the job takes: Snakemake does not compare resources. What it compares are the params.
        settings=training_settings("pretrain"),
        init=init_path("pretrain"),
    params:
        settings=training_settings_that_count("pretrain"),
        options=training_options("pretrain"),
        work_dir=work_dir("pretrain/{model}"),
    message:
        "Pretrain {wildcards.model} on COCO-Stuff"
    shell:
        "vss lease {resources.gpu} -- vss pretrain --model {wildcards.model} --settings {resources.settings:q}"
        " --index {input.index:q} --card {input.card:q} --init={resources.init:q} {params.options:q} --gpus {resources.gpu}"
        " --weights {output.weights:q} --config {output.config:q} --log {output.log:q} --audit {output.audit:q}"
        " --fingerprint {output.fingerprint:q} --work-dir {params.work_dir:q} > {log:q} 2>&1"
        + KEEP_LOG
