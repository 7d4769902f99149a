# Get weights for VSPW's classes: by training, from a published checkpoint, or as the average of other models' weights.


rule finetune:
    input:
        unpack(finetune_init),
        index=ancient(INDEX),
        card=ancient(CARD),
        settings="<results>/finetune/{model}/settings.json",
    output:
        weights="<results>/finetune/{model}/weights.safetensors",
        config="<results>/finetune/{model}/config.json",
        log="<results>/finetune/{model}/log.jsonl",
        audit="<results>/finetune/{model}/audit.json",
        fingerprint="<results>/finetune/{model}/fingerprint.json",
    log:
        "<results>/logs/finetune/{model}.log",
    benchmark:
        "<results>/benchmarks/finetune/{model}.tsv"
    wildcard_constraints:
        model=any_of(plan.finetuned()),
    priority: 1
    conda:
        "../../envs/vss.yaml"
    resources:
        gpu=training_gpus("finetune"),
        # What the job takes: Snakemake does not compare resources. What it compares are the params.
        settings=training_settings("finetune"),
        init=init_path("finetune"),
    params:
        settings=training_settings_that_count("finetune"),
        options=training_options("finetune"),
        work_dir=work_dir("finetune/{model}"),
    message:
        "Finetune {wildcards.model} on VSPW"
    shell:
        "vss lease {resources.gpu} -- vss finetune --model {wildcards.model} --settings {resources.settings:q}"
        " --index {input.index:q} --card {input.card:q} --init={resources.init:q} {params.options:q} --gpus {resources.gpu}"
        " --weights {output.weights:q} --config {output.config:q} --log {output.log:q} --audit {output.audit:q}"
        " --fingerprint {output.fingerprint:q} --work-dir {params.work_dir:q} > {log:q} 2>&1"
        + KEEP_LOG


rule import_weights:
    output:
        weights="<results>/finetune/{model}/weights.safetensors",
        config="<results>/finetune/{model}/config.json",
        audit="<results>/finetune/{model}/audit.json",
        fingerprint="<results>/finetune/{model}/fingerprint.json",
    log:
        "<results>/logs/finetune/{model}.log",
    wildcard_constraints:
        model=any_of(plan.imported()),
    conda:
        "../../envs/vss.yaml"
    resources:
        checkpoint=lambda wildcards: plan.models[wildcards.model]["weights"],
    params:
        settings=import_settings,
        row=lambda wildcards: ROWS[f"import/{wildcards.model}"],
        published=lambda wildcards: plan.content_of(
            plan.models[wildcards.model]["weights"]
        ),
        code=code_of("import"),
    message:
        "Import the weights of {wildcards.model}"
    shell:
        "vss import-checkpoint {resources.checkpoint:q} --model {wildcards.model} --settings {params.settings:q}"
        " --weights {output.weights:q} --config {output.config:q} --audit {output.audit:q}"
        " --fingerprint {output.fingerprint:q} > {log:q} 2>&1"


rule soup:
    input:
        fingerprints=soup_parts("fingerprint.json"),
        configs=soup_parts("config.json"),
        weights=lambda wildcards: ancient(soup_parts("weights.safetensors")(wildcards)),
    output:
        weights="<results>/finetune/{model}/weights.safetensors",
        config="<results>/finetune/{model}/config.json",
        audit="<results>/finetune/{model}/audit.json",
        fingerprint="<results>/finetune/{model}/fingerprint.json",
    log:
        "<results>/logs/finetune/{model}.log",
    wildcard_constraints:
        model=any_of(plan.soups()),
    conda:
        "../../envs/vss.yaml"
    params:
        code=code_of("soup"),
    message:
        "Average the weights of {wildcards.model}"
    shell:
        "vss soup --model {wildcards.model} --parts {input.weights:q} --configs {input.configs:q}"
        " --weights {output.weights:q} --config {output.config:q} --audit {output.audit:q}"
        " --fingerprint {output.fingerprint:q} > {log:q} 2>&1"
