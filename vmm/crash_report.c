// The crash report: what a person needs to see of a guest that can't go on.
//
// capstone is loaded only here: its tables would cost each machine more memory than all of ferry.
#include <capstone/capstone.h>
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vmm/machine_internal.h"

enum { CODE_BEFORE = 16, CODE_AFTER = 48, STACK_WORDS = 16 };

static void print_failure(FILE *out, const struct vcpu *v)
{
    fprintf(out, "guest crashed: %s on vCPU %u", vcpu_failure_name(v->failure), v->index);
    switch (v->failure) {
    case VCPU_INTERNAL_ERROR:
        fprintf(out, " (suberror %u, data %" PRIx64 " %" PRIx64 ")", v->failure_suberror,
                v->failure_data[0], v->failure_data[1]);
        break;
    case VCPU_ENTRY_FAILED:
        fprintf(out, " (hardware reason 0x%" PRIx64 ")", v->failure_data[0]);
        break;
    case VCPU_UNKNOWN_EXIT:
        fprintf(out, " (exit %" PRIu64 ")", v->failure_data[0]);
        break;
    case VCPU_RUN_FAILED:
    case VCPU_NO_TIMER:
        fprintf(out, " (%s)", strerror(v->error));
        break;
    default:
        break;
    }
    fputc('\n', out);
}

static void print_segment(FILE *out, const char *name, const struct kvm_segment *s)
{
    fprintf(out, "  %-3s %04x base %016llx limit %08x type %x dpl %u%s%s%s%s\n", name, s->selector,
            (unsigned long long)s->base, s->limit, s->type, s->dpl, s->present ? " present" : "",
            s->l ? " 64-bit" : "", s->db ? " 32-bit" : "", s->unusable ? " unusable" : "");
}

static void print_registers(FILE *out, const struct kvm_regs *r, const struct kvm_sregs *s)
{
    fprintf(out,
            "  rip %016llx rsp %016llx rflags %08llx cpl %u\n"
            "  rax %016llx rbx %016llx rcx %016llx rdx %016llx\n"
            "  rsi %016llx rdi %016llx rbp %016llx r8  %016llx\n"
            "  r9  %016llx r10 %016llx r11 %016llx r12 %016llx\n"
            "  r13 %016llx r14 %016llx r15 %016llx\n"
            "  cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %04llx\n",
            r->rip, r->rsp, r->rflags, s->ss.dpl, r->rax, r->rbx, r->rcx, r->rdx, r->rsi, r->rdi,
            r->rbp, r->r8, r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15,
            (unsigned long long)s->cr0, (unsigned long long)s->cr2, (unsigned long long)s->cr3,
            (unsigned long long)s->cr4, (unsigned long long)s->efer);
    print_segment(out, "cs", &s->cs);
    print_segment(out, "ss", &s->ss);
    print_segment(out, "ds", &s->ds);
    print_segment(out, "tr", &s->tr);
    fprintf(out, "  gdt %016llx limit %04x   idt %016llx limit %04x\n",
            (unsigned long long)s->gdt.base, s->gdt.limit, (unsigned long long)s->idt.base,
            s->idt.limit);
}

// Copies what can be read of [address, address + length) of the vCPU's address space; stops at the
// first byte that isn't mapped to RAM. Returns how many.
static size_t read_virtual(struct machine *m, const struct vcpu *v, uint64_t address, uint8_t *out,
                           size_t length)
{
    size_t done = 0;
    while (done < length) {
        struct kvm_translation t = {.linear_address = address + done};
        if (ioctl(v->fd, KVM_TRANSLATE, &t) < 0 || !t.valid)
            break;
        size_t in_page = GUEST_PAGE_SIZE - (t.physical_address & (GUEST_PAGE_SIZE - 1));
        size_t n = in_page < length - done ? in_page : length - done;
        if (guest_memory_read(&m->ram.memory, t.physical_address, out + done, n) < 0)
            break;
        done += n;
    }
    return done;
}

struct disassembler {
    void *library;
    csh handle;
    size_t (*disasm)(csh, const uint8_t *, size_t, uint64_t, size_t, cs_insn **);
    void (*free)(cs_insn *, size_t);
    cs_err (*close)(csh *);
};

static bool open_disassembler(struct disassembler *d, const struct kvm_sregs *s)
{
    d->library = dlopen("libcapstone.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!d->library)
        return false;
    cs_err (*open)(cs_arch, cs_mode, csh *) =
        (cs_err(*)(cs_arch, cs_mode, csh *))dlsym(d->library, "cs_open");
    d->disasm = (size_t(*)(csh, const uint8_t *, size_t, uint64_t, size_t, cs_insn **))dlsym(
        d->library, "cs_disasm");
    d->free = (void (*)(cs_insn *, size_t))dlsym(d->library, "cs_free");
    d->close = (cs_err(*)(csh *))dlsym(d->library, "cs_close");
    cs_mode mode = s->cs.l ? CS_MODE_64 : s->cs.db ? CS_MODE_32 : CS_MODE_16;
    if (!open || !d->disasm || !d->free || !d->close ||
        open(CS_ARCH_X86, mode, &d->handle) != CS_ERR_OK) {
        dlclose(d->library);
        return false;
    }
    return true;
}

static void print_code(FILE *out, struct machine *m, const struct vcpu *v, const struct kvm_regs *r,
                       const struct kvm_sregs *s)
{
    uint64_t ip = r->rip + (s->cs.l ? 0 : s->cs.base);
    uint8_t code[CODE_AFTER], before[CODE_BEFORE];
    size_t n = read_virtual(m, v, ip, code, sizeof(code));
    if (n == 0) {
        fprintf(out, "code: rip doesn't point into RAM\n");
        return;
    }
    fprintf(out, "code:");
    if (ip >= CODE_BEFORE &&
        read_virtual(m, v, ip - CODE_BEFORE, before, sizeof(before)) == sizeof(before))
        for (size_t i = 0; i < sizeof(before); i++)
            fprintf(out, " %02x", before[i]);
    fprintf(out, " >");
    for (size_t i = 0; i < n && i < 16; i++)
        fprintf(out, " %02x", code[i]);
    fputc('\n', out);
    struct disassembler d;
    if (!open_disassembler(&d, s)) {
        fprintf(out, "  (not disassembled: libcapstone.so.4 could not be loaded)\n");
        return;
    }
    cs_insn *list = NULL;
    size_t count = d.disasm(d.handle, code, n, ip, 8, &list);
    for (size_t i = 0; i < count; i++)
        fprintf(out, "  %016" PRIx64 "  %s %s\n", list[i].address, list[i].mnemonic,
                list[i].op_str);
    if (list)
        d.free(list, count);
    d.close(&d.handle);
    dlclose(d.library);
}

static void print_stack(FILE *out, struct machine *m, const struct vcpu *v,
                        const struct kvm_regs *r)
{
    uint64_t words[STACK_WORDS];
    size_t n = read_virtual(m, v, r->rsp, (uint8_t *)words, sizeof(words)) / sizeof(words[0]);
    if (n == 0) {
        fprintf(out, "stack: rsp doesn't point into RAM\n");
        return;
    }
    fprintf(out, "stack:\n");
    for (size_t i = 0; i < n; i++)
        fprintf(out, "%s%016" PRIx64 "%s", i % 4 == 0 ? "  " : " ", words[i],
                i % 4 == 3 || i + 1 == n ? "\n" : "");
}

static void print_last_exits(FILE *out, const struct vcpu *v)
{
    fprintf(out, "last exits of vCPU %u, newest first:\n", v->index);
    uint64_t known = v->exit_count < VCPU_LAST_EXITS ? v->exit_count : VCPU_LAST_EXITS;
    if (known == 0)
        fprintf(out, "  none\n");
    for (uint64_t i = 0; i < known; i++) {
        const struct vcpu_exit_record *e =
            &v->last_exits[(v->exit_count - 1 - i) % VCPU_LAST_EXITS];
        fprintf(out, "  %-5s %-5s 0x%" PRIx64 " %u bytes value 0x%" PRIx64 "\n",
                vcpu_exit_name(e->reason), e->is_write ? "write" : "read", e->address, e->length,
                e->value);
    }
}

static void print_vcpu(FILE *out, struct machine *m, const struct vcpu *v)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    if (ioctl(v->fd, KVM_GET_REGS, &regs) < 0 || ioctl(v->fd, KVM_GET_SREGS, &sregs) < 0) {
        fprintf(out, "registers: can't be read: %s\n", strerror(errno));
        return;
    }
    fprintf(out, "registers of vCPU %u:\n", v->index);
    // AMD's SVM resets the processor's state on a shutdown before KVM sees it.
    if (v->failure == VCPU_TRIPLE_FAULT && regs.rip == 0xfff0)
        fprintf(out,
                "  (this processor resets its registers on a triple fault: these say nothing of "
                "the cause, the last exits do)\n");
    print_registers(out, &regs, &sregs);
    print_code(out, m, v, &regs, &sregs);
    print_stack(out, m, v, &regs);
}

char *crash_report_format(struct machine *m, const struct vcpu *v)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    print_failure(out, v);
    print_vcpu(out, m, v);
    print_last_exits(out, v);
    return fclose(out) == 0 ? text : NULL;
}
