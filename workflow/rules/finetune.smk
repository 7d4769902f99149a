# Get weights for the classes that are predicted: by training, from a published checkpoint, or as the average of other models' weights.


rule finetune:
    input:
        unpack(
            present(
                init=of_any_age(
                    each(weights_of("{stage}")["weights"], inputs.initial_weights)
                ),
                init_card=of_any_age(
                    each(rules.prepare.output.card, inputs.initial_weights)
                ),
                init_fingerprint=each(
                    weights_of("{stage}")["fingerprint"], inputs.initial_weights
                ),
            )
        ),
        index=trained_on("finetune", "index"),
        card=trained_on("finetune", "card"),
        settings="<results>/finetune/{model}/settings.json",
    output:
        **weights_of("finetune"),
        log="<results>/finetune/{model}/log.jsonl",
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
        **on_nodes("finetune"),
        gpu=asked(of_plan(Plan.training_gpus, "finetune"), "model"),
    params:
        init=uncompared(of_plan(jobs.init_weights, "finetune"), "model"),
        running=uncompared(of_plan(settings.running_settings, "finetune"), "model"),
        retrain=["--retrain-on-code-change"] * config["retrain_on_code_change"],
        init_card=optional("init_card"),
        work_dir=work_dir("finetune/{model}"),
    message:
        "Finetune {wildcards.model}"
    shell:
        "vss lease {resources.gpu} -- vss finetune --model {wildcards.model} --settings {input.settings:q}"
        " --running {params.running:q} --index {input.index:q} --card {input.card:q} --init={params.init:q}"
        " {params.init_card:q} {params.retrain:q} --gpus {resources.gpu}"
        " --weights {output.weights:q} --work-dir {params.work_dir:q} > {log:q} 2>&1"
        + KEEP_LOG


rule import_weights:
    output:
        **weights_of("finetune"),
    log:
        "<results>/logs/finetune/{model}.log",
    wildcard_constraints:
        model=any_of(plan.imported()),
    conda:
        "../../envs/vss.yaml"
    params:
        # Published weights are known by their content: another file of the same name is noticed, another place is not.
        checkpoint=uncompared(plan.published_weights, "model"),
        content=asked(plan.published_content, "model"),
        settings=asked(of_plan(settings.counted_settings, "import"), "model"),
        row=asked(
            lambda model: settings.training_digest(plan, f"import/{model}"), "model"
        ),
        code=stage_digest("import"),
    message:
        "Import the weights of {wildcards.model}"
    shell:
        "vss import-checkpoint {params.checkpoint:q} --model {wildcards.model} --settings {params.settings:q}"
        " --weights {output.weights:q} --config {output.config:q} --audit {output.audit:q}"
        " --fingerprint {output.fingerprint:q} > {log:q} 2>&1"


rule soup:
    input:
        fingerprints=each(rules.finetune.output.fingerprint, inputs.soup_parts),
        configs=each(rules.finetune.output.config, inputs.soup_parts),
        weights=of_any_age(each(rules.finetune.output.weights, inputs.soup_parts)),
    output:
        **weights_of("finetune"),
    log:
        "<results>/logs/finetune/{model}.log",
    wildcard_constraints:
        model=any_of(set(plan.soups()) - set(plan.soups_of_runs())),
    conda:
        "../../envs/vss.yaml"
    params:
        code=stage_digest("soup"),
    message:
        "Average the weights of {wildcards.model}"
    shell:
        "vss soup --model {wildcards.model} --parts {input.weights:q} --configs {input.configs:q}"
        " --weights {output.weights:q} --config {output.config:q} --audit {output.audit:q}"
        " --fingerprint {output.fingerprint:q} > {log:q} 2>&1"


# The last weights of one training, of which its work folder keeps all but the published ones.
rule soup_of_run:
    input:
        fingerprint=each(rules.finetune.output.fingerprint, inputs.soup_parts),
        config=each(rules.finetune.output.config, inputs.soup_parts),
        weights=of_any_age(each(rules.finetune.output.weights, inputs.soup_parts)),
        index=each(rules.prepare.output.index, inputs.soup_dataset),
        card=each(rules.check_masks.output[0], inputs.soup_dataset),
    output:
        **weights_of("finetune"),
    log:
        "<results>/logs/finetune/{model}.log",
    wildcard_constraints:
        model=any_of(plan.soups_of_runs()),
    conda:
        "../../envs/vss.yaml"
    resources:
        gpu=1,
    params:
        settings=asked(plan.soup_settings, "model"),
        work_dir=uncompared(
            lambda model: work_dir(f"finetune/{plan.soup_parts(model)[0]}"), "model"
        ),
        code=stage_digest("soup_of_run"),
    message:
        "Average the last weights of {wildcards.model}"
    shell:
        "vss lease {resources.gpu} -- vss soup-of-run --model {wildcards.model} --settings {params.settings:q}"
        " --part {input.weights:q} --part-config {input.config:q} --work-dir {params.work_dir:q}"
        " --index {input.index:q} --card {input.card:q} --weights {output.weights:q} --config {output.config:q}"
        " --audit {output.audit:q} --fingerprint {output.fingerprint:q} > {log:q} 2>&1"
