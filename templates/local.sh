#!/bin/bash
# {{ title }}
job=${BESSEMER_JOB_ID:-}
restart=0
{% include "body.sh" %}
