# Train, run, ensemble, refine and score models for video semantic segmentation on VSPW.
# This file is the table of contents, in the order of the flow; the rules are in workflow/rules, one file a stage.

from snakemake.utils import min_version

min_version("9.27")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/settings.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/infer.smk"
include: "workflow/rules/import.smk"
include: "workflow/rules/ensemble.smk"
include: "workflow/rules/refine.smk"
include: "workflow/rules/pseudo.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/submit.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        expand(rules.report.output, report=REPORTS),
        expand(rules.score.output.scores, prediction=plan.scored(), split=plan.split),
        expand(rules.submit.output, prediction=plan.submitted()),
        rules.track.output if config["tracker"]["backend"] else [],
