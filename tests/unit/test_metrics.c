// The text for monitors: names that would break out of a label, and what is left out without a
// store.
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/api/metrics.h"
#include "tests/unit/run_suite.h"

START_TEST(test_labels_are_escaped)
{
    const struct metrics_own own = {.host = "a\"b\\c\nd", .manages = true, .moves_done = 3};
    char *text = metrics_text(&own, NULL, NULL);
    ck_assert_ptr_nonnull(text);
    ck_assert_ptr_nonnull(strstr(text, "ferry_info{host=\"a\\\"b\\\\c\\nd\",version=\""));
    ck_assert_ptr_nonnull(strstr(text, "\nferry_store_reachable 0\n"));
    ck_assert_ptr_nonnull(strstr(text, "\nferry_migrations_total{result=\"done\"} 3\n"));
    ck_assert_ptr_null(strstr(text, "ferry_host_up"));
    ck_assert_ptr_null(strstr(text, "ferry_raft_"));
    free(text);
}
END_TEST

START_TEST(test_an_empty_store_is_one)
{
    const struct metrics_own own = {.host = "a"};
    struct record_view view;
    json_t *member = json_pack("{s:s, s:i, s:n, s:s}", "role", "follower", "term", 7, "leader",
                               "commit", "no number");
    record_view_init(&view);
    char *text = metrics_text(&own, &view, member);
    ck_assert_ptr_nonnull(strstr(text, "\nferry_machines{state=\"running\"} 0\n"));
    ck_assert_ptr_nonnull(strstr(text, "\nferry_raft_term 7\n"));
    ck_assert_ptr_nonnull(strstr(text, "\nferry_raft_has_leader 0\n"));
    ck_assert_ptr_null(strstr(text, "ferry_raft_commit_index"));
    free(text);
    json_decref(member);
    record_view_free(&view);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("metrics");
    TCase *tcase = tcase_create("metrics");
    tcase_add_test(tcase, test_labels_are_escaped);
    tcase_add_test(tcase, test_an_empty_store_is_one);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
