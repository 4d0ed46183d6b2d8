#!/bin/bash
{% for d in directives %}
#PBS {{ d }}
{% endfor %}
# {{ title }}
job=${PBS_JOBID:-}
restart=0
# Torque names the job's GPUs in a file (node-gpu0) and leaves the choice to the job.
if [ -z "${CUDA_VISIBLE_DEVICES:-}" ] && [ -s "${PBS_GPUFILE:-}" ]; then
    gpus=$(sed -n 's/.*-gpu\([0-9][0-9]*\)$/\1/p' "$PBS_GPUFILE" | paste -sd, -)
    if [ -n "$gpus" ]; then export CUDA_VISIBLE_DEVICES="$gpus"; fi
fi
{% include "body.sh" %}
