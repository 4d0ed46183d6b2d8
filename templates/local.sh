#!/bin/bash
# {{ title }}
# The job's id: this process and its start time (field 22 of its stat), which no later process can have.
read -r stat <"/proc/$$/stat"
read -ra stat <<<"${stat##*) }"
job="$$-${stat[19]}"
restart=0
{% include "body.sh" %}
