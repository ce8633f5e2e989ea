# The controllers of both sides, and what they stand on: no threads, no control plane. For programs that
# compile them with limits of their own and drive them in virtual time.
set(APTA_CONTROLLER_SOURCES
    libapta/compute/cache.cc libapta/compute/cut.cc libapta/compute/eviction.cc libapta/compute/getc.cc
    libapta/compute/pins.cc libapta/compute/private_copy.cc libapta/fabric/control.cc
    libapta/fabric/copy.cc libapta/fabric/doorbell.cc libapta/fabric/index.cc libapta/fabric/numa.cc
    libapta/fabric/port.cc libapta/fabric/region.cc libapta/fabric/superblock.cc
    libapta/fabric/write_back.cc
    daemon/blocking_puts.cc daemon/commit_group.cc daemon/group_commits.cc daemon/group_intents.cc daemon/home.cc
    daemon/home_functions.cc daemon/home_groups.cc daemon/home_verbs.cc daemon/object_manager.cc
    daemon/oic.cc daemon/opc.cc daemon/otc.cc daemon/pool.cc daemon/recovery.cc
    daemon/scheduler_text.cc daemon/scrub.cc
    scheduler/executor_manager.cc scheduler/executor_placement.cc scheduler/placement.cc)
