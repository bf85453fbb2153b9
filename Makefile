# ferry: build, run, test.
#
#   make            release build: build/ferry
#   make run        set up, build, boot guests (ends by itself without a terminal)
#   make demo       a cluster of three hosts at work, in a quarter of a minute
#   make test       set up, build, run the whole regular suite
#   make soak       the long tests; make bench: figures beside peers; make lint: style and static checks
#   make FLAVOUR=asan ...   the same objects with ASan and UBSan, in build/asan
#
# Every .c file in a room belongs to the library; each room may add to this file by ROOM/module.mk.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VERSION := 0.1.0
PREFIX ?= /usr/local
DESTDIR ?=
FLAVOUR ?= release

BUILD_ROOT := build
ifeq ($(FLAVOUR),release)
B := $(BUILD_ROOT)
else
B := $(BUILD_ROOT)/$(FLAVOUR)
endif

.DEFAULT_GOAL := all

CC := gcc
CLANG := clang
PKGS := libuv jansson liburing gnutls
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wno-unused-parameter -Werror
STD := -std=gnu11 -D_GNU_SOURCE -DFERRY_VERSION='"$(VERSION)"'
CFLAGS_release := -O2 -g -fstack-protector-strong -fstack-clash-protection -fcf-protection -D_FORTIFY_SOURCE=2 -fPIE
LDFLAGS_release := -pie -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--as-needed
CFLAGS_asan := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
LDFLAGS_asan := -fsanitize=address,undefined
CFLAGS_fuzz := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -DFERRY_FUZZ
LDFLAGS_fuzz := -fsanitize=fuzzer,address,undefined
ifeq ($(FLAVOUR),fuzz)
CC := $(CLANG)
endif

INCLUDES = -I. -I$(B)/gen
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
CPPFLAGS = $(STD) $(INCLUDES) $(PKG_CFLAGS)
CFLAGS = $(WARN) $(CFLAGS_$(FLAVOUR)) $(EXTRA_CFLAGS)
LDLIBS = $(PKG_LIBS) -lpthread -ldl

ROOMS := base devices vmm migrate cluster
LIB_SRCS := $(sort $(shell find $(wildcard $(ROOMS)) -name '*.c' ! -name '*_main.c'))
CLI_SRCS := $(sort $(wildcard cli/*.c))
LIB_OBJS := $(LIB_SRCS:%.c=$(B)/obj/%.o)
CLI_OBJS := $(CLI_SRCS:%.c=$(B)/obj/%.o)

PROGRAMS := $(if $(CLI_SRCS),$(B)/ferry)

-include $(sort $(wildcard */module.mk */*/module.mk))

all: $(PROGRAMS)
	@:

$(B)/libferry.a: $(LIB_OBJS)
	@rm -f $@
	$(Q)ar rcs $@ $^

$(B)/ferry: $(CLI_OBJS) $(B)/libferry.a
	@echo "LINK $@"
	$(Q)$(CC) $(LDFLAGS_$(FLAVOUR)) -o $@ $(CLI_OBJS) $(B)/libferry.a $(LDLIBS)

$(B)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo "CC   $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

ifneq ($(V),1)
Q := @
endif

clean:
	rm -rf $(BUILD_ROOT)

-include $(LIB_OBJS:.o=.d) $(CLI_OBJS:.o=.d)

.PHONY: all clean run linux lint lint-format lint-cppcheck lint-tidy install setup-run setup-test setup-bench

setup-run setup-test setup-bench: setup-%:
	@scripts/setup $*

PARALLEL := --no-print-directory -j$(shell nproc)
# The goals that set up first build in a make of their own, which then finds what was installed.
run: setup-run
	@$(MAKE) $(PARALLEL) all linux
	@scripts/run-guests

linux:
	@scripts/linux-guest

LINT_SRCS = $(LIB_SRCS) $(CLI_SRCS) $(wildcard cluster/*_main.c) $(shell find guest tests -name '*.c')
LINT_HDRS = $(shell find $(wildcard $(ROOMS)) cli guest tests -name '*.h')
# clang-tidy takes long: a file is looked at again only when its object is a new one (it or a header changed).
LINT_TIDY = $(LIB_SRCS:%.c=$(B)/lint/%.ok) $(CLI_SRCS:%.c=$(B)/lint/%.ok)
lint: setup-test
	@$(MAKE) $(PARALLEL) --keep-going lint-format lint-cppcheck lint-tidy

lint-format:
	@clang-format --dry-run -Werror $(LINT_SRCS) $(LINT_HDRS)

lint-cppcheck:
	@mkdir -p $(B)/lint/cppcheck
	@cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 \
		--cppcheck-build-dir=$(B)/lint/cppcheck --suppressions-list=.cppcheck-suppressions --library=.cppcheck.cfg $(INCLUDES) -j2 $(LIB_SRCS) $(CLI_SRCS)

lint-tidy: $(LINT_TIDY)

$(LINT_TIDY): $(B)/lint/%.ok: $(B)/obj/%.o .clang-tidy
	@mkdir -p $(@D)
	@echo "TIDY $*.c"
	$(Q)clang-tidy --quiet --warnings-as-errors='*' $*.c -- $(CPPFLAGS) >$@.out 2>&1 || { cat $@.out; rm -f $@.out; exit 1; }
	$(Q)mv $@.out $@

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin
	install -m 644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
