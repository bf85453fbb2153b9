// What the cluster's CA signs, what is read back from it, and which files belong together; and the
// records of clients.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/tls.h"
#include "cluster/member/certificates.h"
#include "cluster/member/protocol.h"
#include "tests/unit/run_suite.h"

static char directory[] = "/tmp/ferry-certificates-XXXXXX";
static char path[3][64];
static struct error err;
static struct certificate_pair ca, request;

static void write_text(int i, const char *name, const char *text)
{
    snprintf(path[i], sizeof(path[i]), "%s/%s", directory, name);
    FILE *file = fopen(path[i], "w");
    ck_assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void set_up(void)
{
    strcpy(directory, "/tmp/ferry-certificates-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    ck_assert_int_eq(certificate_make_ca("test", &ca, &err), 0);
    ck_assert_int_eq(certificate_make_request("h1", &request, &err), 0);
}

static void tear_down(void)
{
    for (int i = 0; i < 3; i++)
        unlink(path[i]);
    rmdir(directory);
    certificate_pair_free(&ca);
    certificate_pair_free(&request);
}

static char *sign(bool client, const char *unit)
{
    const struct certificate_subject subject = {
        .client = client, .name = "h1", .id = "0123456789abcdef", .unit = unit, .seconds = 100};
    char *text = NULL;
    ck_assert_int_eq(certificate_sign(&ca, request.certificate, &subject, &text, &err), 0);
    return text;
}

START_TEST(subjects_are_read_back)
{
    for (int client = 0; client < 2; client++) {
        struct tls_subject subject;
        char *text = sign(client, client ? "read-only" : NULL);
        write_text(0, "own.pem", text);
        ck_assert_int_eq(tls_file_subject(tls_source(path[0]), &subject, &err), 0);
        ck_assert_int_eq(subject.client, client);
        ck_assert_str_eq(subject.name, "h1");
        ck_assert_str_eq(subject.id, "0123456789abcdef");
        char digest[80];
        snprintf(digest, sizeof(digest), "sha256:%s", subject.digest);
        ck_assert(tls_subject_is(&subject, "id:0123456789abcdef"));
        ck_assert(tls_subject_is(&subject, digest));
        digest[70] = digest[70] == '0' ? '1' : '0';
        ck_assert(!tls_subject_is(&subject, digest));
        ck_assert(!tls_subject_is(&subject, "id:0123456789abcde"));
        static const char *const none[] = {"", "id:", "sha256:", "sha256:12", "0123456789abcdef"};
        for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
            ck_assert(!tls_subject_text_is_valid(none[i]) && !tls_subject_is(&subject, none[i]));
        ck_assert_str_eq(subject.unit, client ? "read-only" : "");
        ck_assert_int_eq(subject.ends - subject.begins, 100 + CERTIFICATE_CLOCKS_OFF);
        free(text);
    }
    write_text(0, "own.pem", "nothing");
    struct tls_subject subject;
    ck_assert_int_eq(tls_file_subject(tls_source(path[0]), &subject, &err), -EINVAL);
}
END_TEST

START_TEST(what_belongs_together_is_told)
{
    struct certificate_pair other, others_ca;
    char *text = sign(false, NULL), *again = NULL;
    ck_assert_int_eq(certificate_make_request("h2", &other, &err), 0);
    ck_assert_int_eq(certificate_make_ca("other", &others_ca, &err), 0);
    write_text(0, "ca.pem", ca.certificate);
    write_text(1, "host.key", request.key);
    ck_assert(certificate_key_is_of(path[0], ca.key));
    ck_assert(!certificate_key_is_of(path[0], request.key));
    ck_assert(!certificate_key_is_of(path[0], "nothing"));
    ck_assert(certificate_is_for(path[0], text, path[1]));
    ck_assert(!certificate_is_for(path[0], "nothing", path[1]));
    ck_assert(!certificate_is_for(path[0], ca.certificate, path[1]));
    // A request for the key that is there is signed again for that key.
    ck_assert_int_eq(certificate_request_for(path[1], "h1", &again, &err), 0);
    certificate_pair_free(&request);
    request.certificate = again;
    char *renewed = sign(false, NULL);
    ck_assert(certificate_is_for(path[0], renewed, path[1]));
    write_text(1, "host.key", other.key);
    ck_assert(!certificate_is_for(path[0], renewed, path[1]));
    write_text(0, "ca.pem", others_ca.certificate);
    ck_assert(!certificate_is_for(path[0], renewed, path[1]));
    certificate_pair_free(&other);
    certificate_pair_free(&others_ca);
    free(renewed);
    free(text);
}
END_TEST

START_TEST(requests_that_are_none)
{
    const struct certificate_subject subject = {.name = "h1", .id = "1", .seconds = 100};
    char *text = NULL;
    ck_assert_int_eq(certificate_sign(&ca, "nothing", &subject, &text, &err), -EBADMSG);
    ck_assert_int_eq(certificate_sign(&ca, ca.certificate, &subject, &text, &err), -EBADMSG);
    ck_assert_ptr_null(text);
}
END_TEST

START_TEST(client_records)
{
    const struct client_record record = {.id = 7,
                                         .revoked = true,
                                         .made = 1,
                                         .ends = 2,
                                         .name = "alice",
                                         .certificate = {(const uint8_t *)"pem", 3}};
    struct client_record back;
    struct byte_writer w;
    uint8_t key[CLIENT_KEY_SIZE];
    uint64_t id;
    byte_writer_init(&w);
    client_record_encode(&w, &record);
    ck_assert(client_record_decode(&back, (struct store_bytes){w.data, w.length}));
    ck_assert(back.id == 7 && back.revoked && !back.read_only && back.made == 1 && back.ends == 2);
    ck_assert_str_eq(back.name, "alice");
    ck_assert_uint_eq(back.certificate.length, 3);
    for (size_t length = 0; length < w.length; length++)
        ck_assert(!client_record_decode(&back, (struct store_bytes){w.data, length}));
    byte_writer_free(&w);
    client_key(key, 7);
    ck_assert(client_key_parse((struct store_bytes){key, sizeof(key)}, &id) && id == 7);
    ck_assert(!client_key_parse((struct store_bytes){key, sizeof(key) - 1}, &id));
    ck_assert(!member_key_parse((struct store_bytes){key, sizeof(key)}, &id));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("certificates");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, set_up, tear_down);
    tcase_add_test(all, subjects_are_read_back);
    tcase_add_test(all, what_belongs_together_is_told);
    tcase_add_test(all, requests_that_are_none);
    tcase_add_test(all, client_records);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
