# Train on another dataset first. The resumable state lives in <work>, outside the outputs, which Snakemake deletes on failure.


rule pretrain:
    input:
        index=trained_on("pretrain", "index"),
        card=trained_on("pretrain", "card"),
        settings="<results>/pretrain/{model}/settings.json",
    output:
        **weights_of("pretrain"),
        log="<results>/pretrain/{model}/log.jsonl",
    log:
        "<results>/logs/pretrain/{model}.log",
    benchmark:
        "<results>/benchmarks/pretrain/{model}.tsv"
    wildcard_constraints:
        model=any_of(plan.pretrained()),
    # The longest chain begins here: everything else fits next to it.
    priority: 2
    conda:
        "../../envs/vss.yaml"
    resources:
        **on_nodes("pretrain"),
        gpu=asked(of_plan(Plan.training_gpus, "pretrain"), "model"),
    params:
        init=uncompared(of_plan(jobs.init_weights, "pretrain"), "model"),
        running=uncompared(of_plan(settings.running_settings, "pretrain"), "model"),
        retrain=["--retrain-on-code-change"] * config["retrain_on_code_change"],
        work_dir=work_dir("pretrain/{model}"),
    message:
        "Pretrain {wildcards.model}"
    shell:
        "vss lease {resources.gpu} -- vss pretrain --model {wildcards.model} --settings {input.settings:q}"
        " --running {params.running:q} --index {input.index:q} --card {input.card:q} --init={params.init:q}"
        " {params.retrain:q} --gpus {resources.gpu}"
        " --weights {output.weights:q} --work-dir {params.work_dir:q} > {log:q} 2>&1"
        + KEEP_LOG
