#!/bin/bash
{% for d in directives %}
#SBATCH {{ d }}
{% endfor %}
# {{ title }}
{% if map %}
job="${SLURM_ARRAY_JOB_ID:-}_${SLURM_ARRAY_TASK_ID:-}"
index=${SLURM_ARRAY_TASK_ID:-0}
{% else %}
job=${SLURM_JOB_ID:-}
{% endif %}
restart=${SLURM_RESTART_COUNT:-0}
# --export=NONE would otherwise also empty the environment of every srun in here.
export SLURM_EXPORT_ENV=ALL
{% include "body.sh" %}
