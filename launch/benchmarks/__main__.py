import sys

from launch.benchmarks import serve

serve(*sys.argv[1:])
