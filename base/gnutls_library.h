// GnuTLS, loaded when the first certificate is: GnuTLS with what it needs (eight libraries) takes
// longer to load and relocate than `ferry run` takes to do all the rest, and no machine uses it.
//
// Include this instead of <gnutls/gnutls.h>: a call looks the same, and goes through a table that
// gnutls_library_load() fills. Nothing can call earlier, as all begins with loading certificates.
// A function that is used for the first time needs a line below.
#pragma once

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "base/error.h"

#define GNUTLS_LIBRARY_FUNCTIONS(X)                                                                \
    X(gnutls_alert_get)                                                                            \
    X(gnutls_alert_get_name)                                                                       \
    X(gnutls_alert_send_appropriate)                                                               \
    X(gnutls_certificate_allocate_credentials)                                                     \
    X(gnutls_certificate_free_credentials)                                                         \
    X(gnutls_certificate_server_set_request)                                                       \
    X(gnutls_certificate_set_x509_key_mem)                                                         \
    X(gnutls_certificate_set_x509_trust_mem)                                                       \
    X(gnutls_credentials_set)                                                                      \
    X(gnutls_deinit)                                                                               \
    X(gnutls_error_is_fatal)                                                                       \
    X(gnutls_fingerprint)                                                                          \
    X(gnutls_handshake)                                                                            \
    X(gnutls_init)                                                                                 \
    X(gnutls_pem_base64_decode)                                                                    \
    X(gnutls_priority_deinit)                                                                      \
    X(gnutls_priority_init)                                                                        \
    X(gnutls_priority_set)                                                                         \
    X(gnutls_record_check_pending)                                                                 \
    X(gnutls_record_get_direction)                                                                 \
    X(gnutls_record_recv)                                                                          \
    X(gnutls_record_send)                                                                          \
    X(gnutls_session_get_verify_cert_status)                                                       \
    X(gnutls_session_set_verify_cert)                                                              \
    X(gnutls_strerror)                                                                             \
    X(gnutls_certificate_get_peers)                                                                \
    X(gnutls_credentials_get)                                                                      \
    X(gnutls_session_get_ptr)                                                                      \
    X(gnutls_session_set_ptr)                                                                      \
    X(gnutls_session_set_verify_function)                                                          \
    X(gnutls_alpn_get_selected_protocol)                                                           \
    X(gnutls_alpn_set_protocols)                                                                   \
    X(gnutls_certificate_verify_peers)                                                             \
    X(gnutls_session_set_verify_cert2)                                                             \
    X(gnutls_x509_crt_deinit)                                                                      \
    X(gnutls_x509_crt_get_activation_time)                                                         \
    X(gnutls_x509_crt_get_dn_by_oid)                                                               \
    X(gnutls_x509_crt_get_expiration_time)                                                         \
    X(gnutls_x509_crt_get_fingerprint)                                                             \
    X(gnutls_x509_crt_get_key_purpose_oid)                                                         \
    X(gnutls_x509_crt_import)                                                                      \
    X(gnutls_x509_crt_init)                                                                        \
    X(gnutls_transport_set_errno)                                                                  \
    X(gnutls_transport_set_int2)                                                                   \
    X(gnutls_transport_set_ptr)                                                                    \
    X(gnutls_transport_set_pull_function)                                                          \
    X(gnutls_transport_set_pull_timeout_function)                                                  \
    X(gnutls_transport_set_push_function)

struct gnutls_library {
#define GNUTLS_LIBRARY_MEMBER(name) __typeof__(name) *name;
    GNUTLS_LIBRARY_FUNCTIONS(GNUTLS_LIBRARY_MEMBER)
#undef GNUTLS_LIBRARY_MEMBER
};

// Written once, by the first call of gnutls_library_load(); only read afterwards.
extern struct gnutls_library gnutls_library;

// 0, or -ENOSYS with a sentence when this host has no GnuTLS. May be called from any thread, and
// again.
int gnutls_library_load(struct error *err);

#ifndef GNUTLS_LIBRARY_ITSELF
#define gnutls_alert_get              gnutls_library.gnutls_alert_get
#define gnutls_fingerprint            gnutls_library.gnutls_fingerprint
#define gnutls_pem_base64_decode      gnutls_library.gnutls_pem_base64_decode
#define gnutls_alert_get_name         gnutls_library.gnutls_alert_get_name
#define gnutls_alert_send_appropriate gnutls_library.gnutls_alert_send_appropriate
#define gnutls_certificate_allocate_credentials                                                    \
    gnutls_library.gnutls_certificate_allocate_credentials
#define gnutls_certificate_free_credentials   gnutls_library.gnutls_certificate_free_credentials
#define gnutls_certificate_server_set_request gnutls_library.gnutls_certificate_server_set_request
#define gnutls_certificate_set_x509_key_mem   gnutls_library.gnutls_certificate_set_x509_key_mem
#define gnutls_certificate_set_x509_trust_mem gnutls_library.gnutls_certificate_set_x509_trust_mem
#define gnutls_credentials_set                gnutls_library.gnutls_credentials_set
#define gnutls_deinit                         gnutls_library.gnutls_deinit
#define gnutls_error_is_fatal                 gnutls_library.gnutls_error_is_fatal
#define gnutls_handshake                      gnutls_library.gnutls_handshake
#define gnutls_init                           gnutls_library.gnutls_init
#define gnutls_priority_deinit                gnutls_library.gnutls_priority_deinit
#define gnutls_priority_init                  gnutls_library.gnutls_priority_init
#define gnutls_priority_set                   gnutls_library.gnutls_priority_set
#define gnutls_record_check_pending           gnutls_library.gnutls_record_check_pending
#define gnutls_record_get_direction           gnutls_library.gnutls_record_get_direction
#define gnutls_record_recv                    gnutls_library.gnutls_record_recv
#define gnutls_record_send                    gnutls_library.gnutls_record_send
#define gnutls_session_get_verify_cert_status gnutls_library.gnutls_session_get_verify_cert_status
#define gnutls_session_set_verify_cert        gnutls_library.gnutls_session_set_verify_cert
#define gnutls_strerror                       gnutls_library.gnutls_strerror
#define gnutls_certificate_get_peers          gnutls_library.gnutls_certificate_get_peers
#define gnutls_credentials_get                gnutls_library.gnutls_credentials_get
#define gnutls_session_get_ptr                gnutls_library.gnutls_session_get_ptr
#define gnutls_session_set_ptr                gnutls_library.gnutls_session_set_ptr
#define gnutls_session_set_verify_function    gnutls_library.gnutls_session_set_verify_function
#define gnutls_transport_set_errno            gnutls_library.gnutls_transport_set_errno
#define gnutls_transport_set_int2             gnutls_library.gnutls_transport_set_int2
#define gnutls_transport_set_ptr              gnutls_library.gnutls_transport_set_ptr
#define gnutls_transport_set_pull_function    gnutls_library.gnutls_transport_set_pull_function
#define gnutls_transport_set_pull_timeout_function                                                 \
    gnutls_library.gnutls_transport_set_pull_timeout_function
#define gnutls_transport_set_push_function  gnutls_library.gnutls_transport_set_push_function
#define gnutls_alpn_get_selected_protocol   gnutls_library.gnutls_alpn_get_selected_protocol
#define gnutls_alpn_set_protocols           gnutls_library.gnutls_alpn_set_protocols
#define gnutls_certificate_verify_peers     gnutls_library.gnutls_certificate_verify_peers
#define gnutls_session_set_verify_cert2     gnutls_library.gnutls_session_set_verify_cert2
#define gnutls_x509_crt_deinit              gnutls_library.gnutls_x509_crt_deinit
#define gnutls_x509_crt_get_activation_time gnutls_library.gnutls_x509_crt_get_activation_time
#define gnutls_x509_crt_get_dn_by_oid       gnutls_library.gnutls_x509_crt_get_dn_by_oid
#define gnutls_x509_crt_get_expiration_time gnutls_library.gnutls_x509_crt_get_expiration_time
#define gnutls_x509_crt_get_fingerprint     gnutls_library.gnutls_x509_crt_get_fingerprint
#define gnutls_x509_crt_get_key_purpose_oid gnutls_library.gnutls_x509_crt_get_key_purpose_oid
#define gnutls_x509_crt_import              gnutls_library.gnutls_x509_crt_import
#define gnutls_x509_crt_init                gnutls_library.gnutls_x509_crt_init
#endif
