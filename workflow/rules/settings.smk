# What every training depends on, in a small file of its own, which the training reads. It takes the index as `ancient`, so that new code of
# `prepare` costs no weeks; but Snakemake looks at no other reason of a job below one that runs, `ancient` or not. A change
# of the training's own settings therefore has to come from a job that has nothing above it: this one.


rule settings:
    output:
        "<results>/{training}/{name}/settings.json",
    log:
        "<results>/logs/{training}/{name}.settings.log",
    wildcard_constraints:
        training="pretrain|finetune|refine",
    # The scheduler chooses among jobs that can start, and what waits for this file cannot.
    priority: 3
    localrule: True
    conda:
        "../../envs/vss.yaml"
    params:
        settings=asked(of_plan(jobs.training_provenance), "training", "name"),
    message:
        "Note the settings of {wildcards.training} {wildcards.name}"
    shell:
        "printf '%s\\n' {params.settings:q} > {output:q} 2> {log:q}"
