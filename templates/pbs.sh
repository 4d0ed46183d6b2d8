#!/bin/bash
{% for d in directives %}
#PBS {{ d }}
{% endfor %}
# {{ title }}
job=${PBS_JOBID:-}
restart=0
{% include "body.sh" %}
