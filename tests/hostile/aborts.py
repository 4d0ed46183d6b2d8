# expect: RE
# why: a signal of its own doing; no core file, and the next run is well
import os
os.abort()
