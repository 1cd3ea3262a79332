/* CRC-64/NVME, the full-object checksum of S3 (NVM Express NVM Command Set 1.0, 5.2.1.3.4). */
#ifndef CRC64NVME_H
#define CRC64NVME_H

#include <stddef.h>
#include <stdint.h>

/* Prepare the tables. Called once, before any thread computes a checksum. */
void crc64nvme_init(void);

/* The checksum of what had the checksum `crc` followed by `length` bytes; that of nothing is 0. */
uint64_t crc64nvme(uint64_t crc, const void *bytes, size_t length);

/* The checksum of two pieces one after the other, the second of which has `length` bytes. */
uint64_t crc64nvme_combine(uint64_t first, uint64_t second, uint64_t length);

#endif
