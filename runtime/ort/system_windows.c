/* Windows, without a C run-time library of our own.
 *
 * That of Windows (ucrtbase.dll, reached through the names api-ms-win-crt-*) has all we need but an entry point and
 * C99's names for printing. So nothing of MinGW has to be built and linked, which takes zig a minute and a half. */
#include "system.h"

#include "kernel.h"

#include <malloc.h>
#include <stdarg.h>
#include <windows.h>

void* bnas_new_aligned(size_t size) {
    return _aligned_malloc(size, BNAS_ALIGNMENT);
}

void bnas_free_aligned(void* memory) {
    _aligned_free(memory);
}

/* Not getenv: it knows nothing in a program whose own run-time library is another one than ours. */
const char* bnas_variable(const char* name, char* value, size_t size) {
    const DWORD length = GetEnvironmentVariableA(name, value, (DWORD)size);
    if (length == 0) {
        return NULL;
    }
    if (length >= size) { /* too long; what was written then is not said */
        memset(value, '?', size - 1);
        value[size - 1] = '\0';
    }
    return value;
}

void bnas_stay_loaded(void) {
    HMODULE library;
    const DWORD flags = GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS;
    GetModuleHandleExW(flags, (LPCWSTR)(const void*)&bnas_generic_kernel, &library);
}

/* What Windows calls when it loads the library: there is nothing to do. */
BOOL WINAPI DllMainCRTStartup(HINSTANCE library, DWORD reason, LPVOID reserved) {
    (void)library, (void)reason, (void)reserved;
    return TRUE;
}

/* A number that every object refers to which computes with floats; Microsoft's linker gives it a meaning, ours does
 * not. */
int _fltused = 1;

int __stdio_common_vsprintf(unsigned long long options, char* text, size_t size, const char* format, void* locale,
                            va_list arguments);

enum { STANDARD_SNPRINTF = 2 }; /* returns the length of the whole text, as C99 says */

int vsnprintf(char* text, size_t size, const char* format, va_list arguments) {
    return __stdio_common_vsprintf(STANDARD_SNPRINTF, text, size, format, NULL, arguments);
}

int snprintf(char* text, size_t size, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(text, size, format, arguments);
    va_end(arguments);
    return length;
}
