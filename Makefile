# reef - build, test, install. `make help` lists the targets.

ifeq ($(origin CC),default)
CC := gcc
endif
BUILD   ?= build
PREFIX  ?= /usr/local
VERSION := 0.1.0

# V=1 prints commands.
Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' $(1) $(2))

# MODE: release (default), asan (address + undefined), tsan, fuzz (clang; for libFuzzer). Each has its own object folder.
MODE     ?= release
CLANG    ?= clang
O        := $(BUILD)/$(MODE)
ARCH     := $(shell uname -m)

WARN     := -Wall -Wextra -Werror -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
            -Wwrite-strings -Wno-missing-field-initializers
CPPFLAGS += -Iinclude -Isrc -D_GNU_SOURCE
CFLAGS   ?= -O2 -g
ALL_CFLAGS = -std=c17 -fPIC -fvisibility=default -pthread $(WARN) $(CFLAGS) $(SAN)
LDLIBS   := -ljansson -lm -lpthread -ldl
ifeq ($(MODE),asan)
SAN := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
ifeq ($(MODE),tsan)
SAN := -fsanitize=thread -fno-omit-frame-pointer
endif
ifeq ($(MODE),fuzz)
CC  := $(CLANG)
SAN := -fsanitize=fuzzer-no-link,address,undefined,float-cast-overflow -fno-sanitize-recover=all \
       -fno-omit-frame-pointer
endif

# Tile sources are compiled once per instruction set (src/device/cpu/kernels/isa.h).
ISAS := generic
ISA_generic :=
ifeq ($(ARCH),x86_64)
ISAS += avx2 avx512
ISA_avx2   := -mavx2 -mfma -mf16c
ISA_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512
endif
# The sanitizers look for errors, not for speed.
KERNEL_CFLAGS := $(if $(SAN),-O1,-O3) -fno-math-errno -fno-trapping-math -ffp-contract=fast -Wno-psabi

# CUDA kernels: each source becomes a cubin per architecture and one PTX for newer ones, embedded in the library. Where
# there is no nvcc the library serves the CPU only. A release build adds CUDA_ARCHS="80 86 89 90a 100".
NVCC       ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA_ARCHS ?= 90a
CUDA_PTX   ?= 75
NVCC_FLAGS := -std=c++17 -O3 -Isrc -DREEF_CUDA_WORKERS --expt-relaxed-constexpr -Wno-deprecated-gpu-targets
CUDA_SRC   := $(wildcard src/device/cuda/kernels/*.cu)
# Kernel padding needs two more forms of each source with tiles in it, for GPUs with clusters and programmatic launches: kernels
# with spare blocks, and tiles as functions that are called in them (kernels/pad.cuh). STACK: what those may use. LEVELS: registers of a
# thread, the highest first; there is a module of either form for each. wgmma rides, at the highest level only, and carries nothing.
CUDA_PAD_ARCH  ?= $(filter 90a,$(CUDA_ARCHS))
# A riding function runs with the constant banks of the kernel that it rides in: it may not have any of its own.
CUDA_PAD_FLAGS := -Xptxas -disable-optimizer-consts -rdc=true -DREEF_PAD_STACK=512
CUDA_PAD_LEVELS ?= 128 64
CUDA_PAD_FIRST  := $(firstword $(CUDA_PAD_LEVELS))
CUDA_PAD_LOWER  := $(filter-out $(CUDA_PAD_FIRST),$(CUDA_PAD_LEVELS))
CUDA_PAD_SRC    := $(basename $(shell grep -l '^REEF_KERNEL' $(CUDA_SRC)))
# conv3 has nothing else.
CUDA_PAD_LIGHT  := $(filter-out %/conv3,$(CUDA_PAD_SRC))
CUDA_PAD_FORMS  := $(CUDA_PAD_SRC:%=%_rides$(CUDA_PAD_FIRST)) \
                   $(foreach s,$(CUDA_PAD_LIGHT),$(CUDA_PAD_LEVELS:%=$(s)_pads%) $(CUDA_PAD_LOWER:%=$(s)_rides%))
ifneq ($(NVCC),)
CUDA_IMAGES := $(foreach a,$(CUDA_PAD_ARCH),$(CUDA_PAD_FORMS:%=$(BUILD)/cuda/%.sm_$(a).cubin))
CUDA_IMAGES += $(foreach s,$(CUDA_SRC:%.cu=$(BUILD)/cuda/%),$(CUDA_ARCHS:%=$(s).sm_%.cubin) $(CUDA_PTX:%=$(s).compute_%.ptx))
else ifeq ($(filter clean help,$(MAKECMDGOALS)),)
$(info reef: no nvcc found (set NVCC=...): building the CPU-only library)
endif

LIB_DIRS   := base nice model device device/cpu device/cuda device/cuda/kernels queue task sched api
LIB_SRC    := $(foreach d,$(LIB_DIRS),$(wildcard src/$(d)/*.c))
KERNEL_SRC := $(wildcard src/device/cpu/kernels/*.c)
BENCH_SRC  := $(wildcard src/bench/*.c)
CLIENT_SRC := $(wildcard src/client/*.c)
SERVE_SRC  := $(wildcard src/serve/*.c)
CLI_SRC    := $(wildcard src/cli/*.c)
# The library that reef nice puts under other programs: a few files, the C library, and one exported name.
NICE_SRC   := src/nice/preload/preload.c src/nice/groups.c src/nice/level.c src/nice/control.c src/base/error.c
WORKLOADS  := $(wildcard workloads/*.json)
LIB_OBJ    := $(LIB_SRC:%.c=$(O)/%.o) $(foreach i,$(ISAS),$(KERNEL_SRC:%.c=$(O)/%.$(i).o)) $(O)/cuda_images.o
BENCH_OBJ  := $(BENCH_SRC:%.c=$(O)/%.o) $(O)/src/client/http.o $(O)/gen/builtin.o
# The ring's client is a library; its neighbour, a small HTTP client, is for the command alone.
CLIENT_OBJ := $(O)/src/client/client.o $(O)/src/client/call.o $(O)/src/base/error.o
SERVE_OBJ  := $(SERVE_SRC:%.c=$(O)/%.o)
CLI_OBJ    := $(CLI_SRC:%.c=$(O)/%.o)
NICE_OBJ   := $(NICE_SRC:%.c=$(O)/%.o)
# The command serves HTTP; the library does not.
CLI_LIBS   := -lmicrohttpd

.PHONY: all lib clean help
all: $(O)/libreef.a $(O)/libreef.so $(O)/libreef_client.a $(O)/libreef_client.so $(O)/reef $(O)/libreef-nice.so

$(O)/libreef.a: $(LIB_OBJ)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar rcs $@ $^

$(O)/libreef.so: $(LIB_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,libreef.so.0 $(SAN) -o $@ $^ $(LDLIBS)

$(O)/libreef-nice.so: $(NICE_OBJ) src/nice/preload/exports.map
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,libreef-nice.so -Wl,--version-script=src/nice/preload/exports.map $(if $(SAN),,-Wl,-z,defs) $(SAN) \
	    -o $@ $(NICE_OBJ) -lpthread -ldl

# The client of the server's ring: nothing but the C library.
$(O)/libreef_client.a: $(CLIENT_OBJ)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar rcs $@ $^
$(O)/libreef_client.so: $(CLIENT_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,libreef_client.so.0 $(SAN) -o $@ $^ -lpthread

$(O)/reef: $(CLI_OBJ) $(O)/libserve.a $(O)/libbench.a $(O)/libreef_client.a $(O)/libreef.a
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -o $@ $^ $(CLI_LIBS) $(LDLIBS)

# The server, below the command.
$(O)/libserve.a: $(SERVE_OBJ)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar rcs $@ $^

# What the command is made of besides the library: benchmarks, and the built-in workloads as C arrays.
$(O)/libbench.a: $(BENCH_OBJ)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar rcs $@ $^
$(O)/gen/builtin.c: $(WORKLOADS) tools/embed.sh
	@mkdir -p $(@D)
	$(call say,EMBED,$@)
	$(Q)sh tools/embed.sh $(WORKLOADS) > $@.tmp
	@mv $@.tmp $@
$(O)/gen/builtin.o: $(O)/gen/builtin.c
	$(call say,CC,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

$(O)/cuda_images.S: tools/embed_cuda.sh $(CUDA_IMAGES)
	@mkdir -p $(@D)
	$(Q)tools/embed_cuda.sh $@ $(CUDA_IMAGES)
$(O)/cuda_images.o: $(O)/cuda_images.S
	$(call say,AS,$@)
	$(Q)$(CC) -c -o $@ $<

define cubin_rule
$(BUILD)/cuda/%.sm_$(1).cubin: %.cu
	@mkdir -p $$(@D)
	$$(call say,NVCC,$$@)
	$$(Q)$(NVCC) $(NVCC_FLAGS) $(if $(filter %a,$(1)),-DREEF_WGMMA_BUILD) -gencode=arch=compute_$(1),code=sm_$(1) -MMD -MP -MT $$@ -MF $$@.d -cubin -o $$@ $$<
endef
$(foreach a,$(CUDA_ARCHS),$(eval $(call cubin_rule,$(a))))
# $(1): architecture; $(2): pads or rides; $(3): level; $(4): more flags.
define pad_rule
$(BUILD)/cuda/%_$(2)$(3).sm_$(1).cubin: %.cu
	@mkdir -p $$(@D)
	$$(call say,NVCC,$$@)
	$$(Q)$(NVCC) $(NVCC_FLAGS) $(CUDA_PAD_FLAGS) -maxrregcount=$(3) -DREEF_PAD_REGS=$(3) $(4) -gencode=arch=compute_$(1),code=sm_$(1) -MMD -MP -MT $$@ -MF $$@.d -cubin -o $$@.o $$<
	$$(Q)$(dir $(NVCC))nvlink -arch=sm_$(1) -o $$@.linked $$@.o
	$$(Q)$(if $(filter rides,$(2)),! readelf -SW $$@.linked 2>/dev/null | grep -o '\.nv\.constant[1-9][^ ]*' || { echo "$$@: constants in a riding function" >&2; exit 1; })
	$$(Q)mv $$@.linked $$@
endef
$(foreach a,$(CUDA_PAD_ARCH),$(eval $(call pad_rule,$(a),pads,$(CUDA_PAD_FIRST),-DREEF_CUDA_PADS)))
$(foreach a,$(CUDA_PAD_ARCH),$(eval $(call pad_rule,$(a),rides,$(CUDA_PAD_FIRST),-DREEF_CUDA_RIDES -DREEF_WGMMA_BUILD)))
$(foreach a,$(CUDA_PAD_ARCH),$(foreach l,$(CUDA_PAD_LOWER),$(eval $(call pad_rule,$(a),pads,$(l),-DREEF_CUDA_PADS -DREEF_PAD_CAPPED))))
$(foreach a,$(CUDA_PAD_ARCH),$(foreach l,$(CUDA_PAD_LOWER),$(eval $(call pad_rule,$(a),rides,$(l),-DREEF_CUDA_RIDES))))
define ptx_rule
$(BUILD)/cuda/%.compute_$(1).ptx: %.cu
	@mkdir -p $$(@D)
	$$(call say,NVCC,$$@)
	$$(Q)$(NVCC) $(NVCC_FLAGS) -arch=compute_$(1) -MMD -MP -MT $$@ -MF $$@.d -ptx -o $$@ $$<
endef
$(foreach a,$(CUDA_PTX),$(eval $(call ptx_rule,$(a))))

define isa_rule
$(O)/%.$(1).o: %.c
	@mkdir -p $$(@D)
	$$(call say,CC,$$@)
	$$(Q)$(CC) $(ALL_CFLAGS) $(KERNEL_CFLAGS) $(ISA_$(1)) -DREEF_ISA=$(1) $(CPPFLAGS) -MMD -MP -c -o $$@ $$<
endef
$(foreach i,$(ISAS),$(eval $(call isa_rule,$(i))))

# --- install -------------------------------------------------------------------------------------------------------
.PHONY: install always
# Written anew each time: PREFIX may have changed.
$(O)/reef.pc: always
	@mkdir -p $(@D)
	@printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include' 'libdir=$${prefix}/lib' '' 'Name: reef' \
	    'Description: real-time and best-effort neural-network inference on one device' 'Version: $(VERSION)' \
	    'Libs: -L$${libdir} -lreef' 'Libs.private: $(LDLIBS)' 'Cflags: -I$${includedir}' > $@

$(O)/reef_client.pc: always
	@mkdir -p $(@D)
	@printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include' 'libdir=$${prefix}/lib' '' 'Name: reef_client' \
	    'Description: client of a reef server on the same machine, through shared memory' 'Version: $(VERSION)' \
	    'Libs: -L$${libdir} -lreef_client' 'Libs.private: -lpthread' 'Cflags: -I$${includedir}' > $@
$(O)/reef.service: packaging/reef.service always
	@mkdir -p $(@D)
	@sed 's|@PREFIX@|$(PREFIX)|' $< > $@

# make install PREFIX=/usr/local [DESTDIR=]
install: all $(O)/reef.pc $(O)/reef_client.pc $(O)/reef.service
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include/reef $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 644 $(O)/reef.service $(DESTDIR)$(PREFIX)/lib/systemd/system/reef.service
	install -m 644 $(O)/libreef_client.a $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(O)/libreef_client.so $(DESTDIR)$(PREFIX)/lib/libreef_client.so.$(VERSION)
	ln -sf libreef_client.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libreef_client.so.0
	ln -sf libreef_client.so.0 $(DESTDIR)$(PREFIX)/lib/libreef_client.so
	install -m 644 $(O)/reef_client.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/reef_client.pc
	install -m 755 $(O)/reef $(DESTDIR)$(PREFIX)/bin/reef
	install -m 644 include/reef/*.h $(DESTDIR)$(PREFIX)/include/reef/
	install -m 644 $(O)/libreef.a $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(O)/libreef.so $(DESTDIR)$(PREFIX)/lib/libreef.so.$(VERSION)
	ln -sf libreef.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libreef.so.0
	ln -sf libreef.so.0 $(DESTDIR)$(PREFIX)/lib/libreef.so
	install -m 755 $(O)/libreef-nice.so $(DESTDIR)$(PREFIX)/lib/libreef-nice.so
	install -m 644 $(O)/reef.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/reef.pc

# --- tests -------------------------------------------------------------------------------------------------------
# One program per file in tests/unit; the fakes and references in tests/support are a library of their own.
TEST_SRC    := $(wildcard tests/unit/*.c)
SUPPORT_SRC := $(wildcard tests/support/*.c)
TEST_OBJ    := $(TEST_SRC:%.c=$(O)/%.o)
SUPPORT_OBJ := $(SUPPORT_SRC:%.c=$(O)/%.o)
TEST_BIN    := $(TEST_SRC:tests/unit/%.c=$(O)/tests/%)

$(O)/tests/%.o $(TEST_OBJ) $(SUPPORT_OBJ): CPPFLAGS += -Itests
$(O)/libsupport.a: $(SUPPORT_OBJ)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar rcs $@ $^

# The command line and the benchmarks are tested with a fake engine, which can be told to answer wrongly.
FAKE_OBJ := $(O)/tests/fake/fake_reef.o $(addprefix $(O)/src/base/,error.o arena.o memory.o trace.o half.o) \
            $(addprefix $(O)/src/nice/,control.o groups.o level.o)
$(O)/libfake.a: $(FAKE_OBJ)
	@rm -f $@
	$(call say,AR,$@)
	$(Q)ar rcs $@ $^
$(O)/reef-fake: $(CLI_OBJ) $(O)/libserve.a $(O)/libbench.a $(O)/libreef_client.a $(O)/libfake.a
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -o $@ $^ $(CLI_LIBS) $(LDLIBS)

# The CUDA device is tested with a driver of our own, which needs neither a GPU nor nvcc: the tests find it under the
# driver's name, and its kernels in the place of the embedded ones.
FAKE_CUDA := $(O)/tests/fake/libcuda.so.1
FAKE_CUDA_OBJ := $(addprefix $(O)/tests/fake/,fake_cuda.o cuda_images.o cuda_images_pads.o)
$(FAKE_CUDA_OBJ): CPPFLAGS += -Itests
$(FAKE_CUDA): $(O)/tests/fake/fake_cuda.o
	$(call say,LD,$@)
	$(Q)$(CC) -shared -Wl,-soname,libcuda.so.1 $(SAN) -o $@ $< -lm -lpthread
# With the modules of kernel padding and without them.
$(O)/tests/fake/cuda_images_pads.o: tests/fake/cuda_images.c
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -DFAKE_CUDA_PADS -MMD -MP -c -o $@ $<
FAKE_CUDA_BIN := $(O)/tests/test_cuda_host $(O)/tests/test_cuda_device $(O)/tests/test_cuda_pad
$(FAKE_CUDA_BIN): FIRST := $(O)/tests/fake/cuda_images.o
$(O)/tests/test_cuda_pad: FIRST := $(O)/tests/fake/cuda_images_pads.o
$(FAKE_CUDA_BIN): LDLIBS += $(FAKE_CUDA) -Wl,-rpath,'$$ORIGIN/fake'
$(FAKE_CUDA_BIN): $(FAKE_CUDA) $(O)/tests/fake/cuda_images.o $(O)/tests/fake/cuda_images_pads.o

$(TEST_BIN): ENGINE := $(O)/libreef.a
$(O)/tests/test_bench: ENGINE := $(O)/libbench.a $(O)/libfake.a
$(O)/tests/test_bench: $(O)/libbench.a $(O)/libfake.a
$(O)/tests/test_serve: ENGINE := $(O)/libserve.a $(O)/libreef.a -lmicrohttpd
$(O)/tests/test_serve: $(O)/libserve.a
# Threads are late where REEF_LATE says so: tests/support/late.c.
ifeq ($(MODE),tsan)
LATE := $(O)/tests/support/late.o $(foreach f,pthread_mutex_lock pthread_mutex_unlock pthread_cond_wait syscall,-Wl,--wrap=$(f))
endif
# A thread of it loses the processor where the test wants it to.
$(O)/tests/test_serve: WRAP := -Wl,--wrap=clock_gettime
$(TEST_BIN): $(O)/tests/%: $(O)/tests/unit/%.o $(O)/libsupport.a $(O)/libreef.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) $(WRAP) -o $@ $< $(FIRST) $(LATE) $(O)/libsupport.a $(ENGINE) -lcmocka $(LDLIBS)
# The device suite again, on the fake GPU, which is slow.
$(O)/tests/unit/test_cuda_device.o: tests/unit/test_device.c
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -Itests -DONLY_DEVICE='"cuda:0"' -DSUITE_ELEMS=16384 -MMD -MP -c -o $@ $<
$(O)/tests/test_cuda_device: $(O)/tests/unit/test_cuda_device.o $(O)/libsupport.a $(O)/libreef.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -o $@ $< $(FIRST) $(LATE) $(O)/libsupport.a $(O)/libreef.a -lcmocka $(LDLIBS)
# Its allocations fail when the test wants them to.
$(O)/tests/test_nomem: WRAP := $(foreach f,malloc calloc realloc aligned_alloc strdup strndup realpath asprintf mmap \
                                           pthread_create,-Wl,--wrap=$(f))

# A model through the interpreter instead of a device: tests/oracle/plan_check.c.
$(O)/tests/oracle/plan_check.o: CPPFLAGS += -Itests
$(O)/tests/plan_check: $(O)/tests/oracle/plan_check.o $(O)/libsupport.a $(O)/libreef.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -o $@ $< $(O)/libsupport.a $(O)/libreef.a $(LDLIBS)

# What depends on the instruction set is tested once for each.
ISA_TEST_BIN := $(foreach i,$(ISAS),$(O)/tests/test_cpu_vmath.$(i))
$(ISA_TEST_BIN): $(O)/tests/%: $(O)/tests/isa/%.o
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -o $@ $< -lcmocka $(LDLIBS)

# Random preemption of whole models: tests/stress/preempt.c.
$(O)/tests/preempt: $(O)/tests/stress/preempt.o $(O)/libreef.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -o $@ $< $(O)/libreef.a $(LDLIBS)

# The kernels alone, on a machine with a GPU: tests/gpu. Built where nvcc's headers are (make gpu-programs), run by
# tools/h200/gpu_tests.sh.
CUDA_INCLUDE := $(if $(NVCC),$(abspath $(dir $(realpath $(NVCC)))../include))
GPU_BIN := $(addprefix $(O)/tests/gpu/,kernel_bench run_profile dump_layers test_cuda_misc naive.cubin)
GPU_BIN += $(if $(CUDA_PAD_ARCH),$(addprefix $(O)/tests/gpu/,pad_table pad_table.cubin pad_table_pads.cubin pad_table_rides.cubin))
$(O)/tests/gpu/%.o: CPPFLAGS += -Itests -isystem $(CUDA_INCLUDE)
$(O)/tests/gpu/test_cuda_misc: $(O)/tests/gpu/test_cuda_misc.o $(O)/tests/gpu/launch.o $(O)/libsupport.a $(O)/libreef.a
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -o $@ $^ $(LDLIBS)
$(addprefix $(O)/tests/gpu/,kernel_bench run_profile dump_layers): $(O)/tests/gpu/%: $(O)/tests/gpu/%.o $(O)/libreef.a
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -o $@ $^ $(LDLIBS) -lcuda -L$(CUDA_INCLUDE)/../lib64/stubs
# Linked without libcuda: it says itself that there is none.
$(O)/tests/gpu/pad_table: $(O)/tests/gpu/pad_table.o $(O)/libreef.a
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -o $@ $^ $(LDLIBS)
$(O)/tests/gpu/naive.cubin $(O)/tests/gpu/pad_table.cubin: $(O)/tests/gpu/%.cubin: tests/gpu/%.cu
	@mkdir -p $(@D)
	$(call say,NVCC,$@)
	$(Q)$(NVCC) $(NVCC_FLAGS) -gencode=arch=compute_90a,code=sm_90a -MMD -MP -MT $@ -MF $@.d -cubin -o $@ $<
# The forms of kernel padding, by the library's own rule.
$(O)/tests/gpu/pad_table_pads.cubin $(O)/tests/gpu/pad_table_rides.cubin: $(O)/tests/gpu/pad_table_%.cubin: $(BUILD)/cuda/tests/gpu/pad_table_%.sm_90a.cubin
	@mkdir -p $(@D)
	$(Q)cp $< $@
.PHONY: gpu-programs
gpu-programs: $(if $(NVCC),$(GPU_BIN))
# Clients of a server under load: tests/serve/load.c.
$(O)/tests/load: $(O)/tests/serve/load.o $(O)/libbench.a $(O)/libreef.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -o $@ $^ $(LDLIBS)

.PHONY: test-programs unit
test-programs: $(TEST_BIN) $(ISA_TEST_BIN) $(O)/tests/test_cuda_device $(O)/tests/preempt $(O)/tests/load
# make unit [MODE=asan|tsan]: the unit tests alone.
unit: test-programs
	@bash tests/programs.sh $(TEST_BIN) $(ISA_TEST_BIN) $(O)/tests/test_cuda_device

.PHONY: test-cli
# make test-cli [MODE=asan]: bad input, exit codes and output of the command, on the fake engine and on the real one.
test-cli: $(O)/reef-fake $(O)/reef
	python3 tests/cli/test_cli.py --reef $(O)/reef-fake --fake
	python3 tests/cli/test_cli.py --reef $(O)/reef

# reef nice against a driver that records every call: the driver as a library to preload, and a program that calls it.
$(O)/tests/libfake_driver.so: tests/nice/fake_driver.c src/nice/rm.h
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_CFLAGS) -Wno-missing-prototypes $(CPPFLAGS) -shared -o $@ $< -ldl -lpthread
$(O)/tests/nice_client: tests/nice/client.c src/nice/rm.h
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -o $@ $< -lpthread
# The same as a library, with slots that are filled late and can be written, and with slots that cannot.
$(O)/tests/libfake_cuda.%.so: tests/nice/client.c src/nice/rm.h
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_CFLAGS) -DCLIENT_LIBRARY $(CPPFLAGS) -shared -Wl,-z,$*,-z,relro -o $@ $< -lpthread
$(O)/tests/nice_own: tests/nice/own.c $(O)/libreef.a
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -o $@ $< $(O)/libreef.a $(LDLIBS)
.PHONY: test-nice
# make test-nice: reef nice against a recording driver, without a GPU.
test-nice: $(O)/reef $(O)/libreef-nice.so $(O)/tests/libfake_driver.so $(O)/tests/nice_client $(O)/tests/nice_own \
           $(O)/tests/libfake_cuda.lazy.so $(O)/tests/libfake_cuda.now.so
	python3 tests/nice/test_nice.py --build $(O)

# What tools/h200/nice.py measures with: reef as the real-time side, and CUDA programs that know nothing of reef.
$(O)/tests/nice_rt: tests/gpu/nice_rt.c $(O)/libreef.a
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -o $@ $< $(O)/libreef.a $(LDLIBS)
$(O)/tests/nice_load $(O)/tests/nice_load_shared: tests/gpu/nice_load.cu
	@mkdir -p $(@D)
	$(call say,NVCC,$@)
	$(Q)$(NVCC) -std=c++17 -O2 -Wno-deprecated-gpu-targets $(foreach a,$(CUDA_ARCHS),-gencode=arch=compute_$(a),code=sm_$(a)) \
	    -gencode=arch=compute_$(CUDA_PTX),code=compute_$(CUDA_PTX) $(if $(findstring shared,$@),-cudart shared) -o $@ $<
.PHONY: nice-programs
nice-programs: $(O)/reef $(O)/libreef-nice.so $(O)/tests/nice_rt $(if $(NVCC),$(O)/tests/nice_load $(O)/tests/nice_load_shared)
.PHONY: test-serve
# make test-serve [MODE=asan]: the server, from outside; needs the venv.
test-serve: $(O)/reef-fake $(O)/reef
	.venv/bin/python tests/serve/test_serve.py --reef $(O)/reef --fake $(O)/reef-fake

# Programs that the tests' scripts call: tests/model/NAME.c becomes $(O)/tests/NAME.
$(O)/tests/%: tests/model/%.c $(O)/libreef.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -o $@ $< $(O)/libreef.a $(LDLIBS)

# One fuzzer per file tests/fuzz/fuzz_*.c, as libFuzzer programs; tests/fuzz/run.sh runs them from tests/fuzz/corpus.
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_OBJ := $(FUZZ_SRC:%.c=$(O)/%.o)
FUZZ_BIN := $(FUZZ_SRC:tests/fuzz/%.c=$(O)/%)
$(FUZZ_OBJ): CPPFLAGS += -Itests
$(FUZZ_BIN): $(O)/%: $(O)/tests/fuzz/%.o $(O)/libserve.a $(O)/libbench.a $(O)/libreef.a
	$(call say,LD,$@)
	$(Q)$(CC) $(SAN) -fsanitize=fuzzer -o $@ $^ $(CLI_LIBS) $(LDLIBS)

.PHONY: fuzz-programs fuzz fuzz-smoke
fuzz-programs: $(FUZZ_BIN)
# make fuzz FUZZ_SECONDS=600 [FUZZERS="onnx npy"]: each fuzzer in turn for that long; what they find lies in build/fuzz.
FUZZ_SECONDS ?= 600
fuzz:
	@$(MAKE) --no-print-directory MODE=fuzz fuzz-programs
	@bash tests/fuzz/run.sh $(BUILD)/fuzz $(FUZZ_SECONDS) $(FUZZERS)
# The same for a few seconds each, after every input of the corpus.
fuzz-smoke:
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=10

# --- the two commands ----------------------------------------------------------------------------------------------
.PHONY: test demo bench-cpu models format format-check tidy help
# Everything CI runs, installs included. tests/run.sh has the stages; `make test STAGES="unit ops"` runs some of them.
test:
	@tools/setup.sh test
	@bash tests/run.sh $(STAGES)

# Reads a photographed page with real networks, then serves them under every policy: build/demo/report.json.
demo:
	@tools/setup.sh demo
	@$(MAKE) --no-print-directory -j2 all
	@tools/venv.sh
	@.venv/bin/python tools/demo/demo.py --reef $(O)/reef

models:
	@tools/venv.sh
	@.venv/bin/python tools/models/make_models.py

# Solo latency of each model beside ONNX Runtime with as many threads; build/bench-cpu.json.
bench-cpu: all models
	@.venv/bin/python tools/demo/fetch_ocr.py
	@.venv/bin/python tools/bench_cpu.py --reef $(O)/reef --json $(BUILD)/bench-cpu.json

C_FILES = $(shell git ls-files '*.c' '*.h')
format:
	clang-format -i $(C_FILES)
format-check:
	@clang-format --dry-run -Werror $(C_FILES)
# Tile sources are checked as AVX2 code.
TIDY_SRC = $(LIB_SRC) $(KERNEL_SRC) $(BENCH_SRC) $(CLIENT_SRC) $(SERVE_SRC) $(CLI_SRC) src/nice/preload/preload.c
tidy:
	@printf '%s\n' $(TIDY_SRC) | xargs -P 2 -n 1 sh -c \
	    'clang-tidy --quiet "$$0" -- -std=c17 $(CPPFLAGS) -DREEF_ISA=avx2 -mavx2 -mfma 2>/dev/null || exit 1'

help:
	@grep -B1 -E '^[a-z-]+:' Makefile | grep -E '^# ' ; echo "targets: all lib demo test unit test-cli test-serve bench-cpu models install format tidy fuzz clean"

clean:
	rm -rf $(BUILD)/release $(BUILD)/asan $(BUILD)/tsan $(BUILD)/fuzz $(BUILD)/cuda

-include $(CUDA_IMAGES:=.d) $(LIB_OBJ:.o=.d) $(NICE_OBJ:.o=.d) $(BENCH_OBJ:.o=.d) $(CLIENT_OBJ:.o=.d) $(SERVE_OBJ:.o=.d) $(CLI_OBJ:.o=.d) $(FAKE_OBJ:.o=.d) $(FAKE_CUDA_OBJ:.o=.d) $(O)/tests/unit/test_cuda_device.d $(TEST_OBJ:.o=.d) $(SUPPORT_OBJ:.o=.d) $(FUZZ_OBJ:.o=.d) $(wildcard $(BUILD)/cuda/tests/gpu/*.d $(O)/tests/gpu/*.d $(O)/tests/stress/*.d $(O)/tests/isa/*.d)
